"""Products of narrow integers by the compiled kernels (kernels/cpu/ops/sign_magnitude.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from halut import _kernels  # type: ignore[attr-defined]
from halut.ops.core import dispatch


@dispatch.implementation("sign_magnitude", "cpu", devices=("cpu",))
def sign_magnitude(x: Tensor, weight: Tensor) -> Tensor:
    """Tiles of rows and outputs in parallel."""
    G, M, D = weight.shape
    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty(x.shape[0], G * M, dtype=torch.int32, device="cpu")
    pointers = x.data_ptr(), weight.data_ptr(), out.data_ptr()
    _kernels.sign_magnitude(*pointers, x.shape[0], G, M, D, torch.get_num_threads())
    return out
