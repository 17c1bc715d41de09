"""`python -m halut.bench`."""

import sys

from halut.bench.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
