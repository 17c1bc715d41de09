"""Products of narrow integers by kernels/cuda/sign_magnitude.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.ops.core import dispatch
from halut.ops.cuda import launch

THREADS = 256
TILE = 64
"""Rows, and outputs, of a block."""
RUN = 256
"""Least inputs of a block where several share a sum; a multiple of what one reads at a time."""


def _supports(x: Tensor, weight: Tensor) -> bool:
    return launch.available()


@dispatch.implementation("sign_magnitude", "cuda", devices=("cuda",), supports=_supports)
def sign_magnitude(x: Tensor, weight: Tensor) -> Tensor:
    """Tiles of 64 rows and outputs; long sums are cut, where tiles alone do not fill the device."""
    G, M, D = weight.shape
    N = x.shape[0]
    x, weight = x.contiguous(), weight.contiguous()
    tiles = G * -(-N // TILE) * -(-M // TILE)
    run = -(-D // launch.parts(tiles, D, RUN, x.device))
    run = -(-run // 32) * 32
    splits = -(-D // run)
    make = torch.empty if splits == 1 else torch.zeros
    out = make(N, G * M, dtype=torch.int32, device=x.device)
    aligned = D % 4 == 0 and (x.data_ptr() | weight.data_ptr()) % 4 == 0
    launch.launch(
        *("sign_magnitude", "sign_magnitude", x.device, (tiles * splits, THREADS)),
        *(x, weight, out, N, G, M, D, run, aligned, splits > 1),
    )
    return out
