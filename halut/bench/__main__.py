"""`python -m halut.bench`."""

import sys

from halut.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
