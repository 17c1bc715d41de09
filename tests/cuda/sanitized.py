"""Runs the cases through kernels built with AddressSanitizer, which must be loaded.

python sanitized.py FOLDER [OPERATION]
"""

import sys
from pathlib import Path

import torch

from halut.ops.cuda import launch
from tests.cuda.cuda_cases import CASES, run
from tests.cuda.shim.runner import Shim

HEAVY = {"64", "128", "256"}


def main() -> None:
    shim = Shim(Path(sys.argv[1]), sanitize=True)
    launch.launch = shim.launch
    torch.set_num_threads(1)
    cases = [each for each in CASES if each.operation in sys.argv[2:] or len(sys.argv) == 2]
    for each in cases:
        if each.operation == "tree_gradient" and each.label in HEAVY:
            continue
        run(each, "cuda", each.make())
    print(f"{len(cases)} cases, {len(set(shim.launched))} kernels")


main()
