"""Runs a share of the cases on the GPU once, to be watched by compute-sanitizer."""

import torch
from cuda_cases import CASES, run

for each in CASES[::3]:
    moved = (v.cuda() if isinstance(v, torch.Tensor) else v for v in each.make())
    run(each, "cuda", tuple(moved))
torch.cuda.synchronize()
