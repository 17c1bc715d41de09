"""Finiteness of tensors by the compiled kernel (kernels/cpu/ops/all_finite.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from halut import _kernels  # type: ignore[attr-defined]
from halut.ops.core import dispatch
from halut.ops.core.finite import dense
from halut.ops.cpu.view import DTYPES


def _supports(x: Tensor) -> bool:
    return x.dtype in DTYPES


@dispatch.implementation("all_finite", "cpu", devices=("cpu",), supports=_supports)
def all_finite(x: Tensor) -> Tensor:
    """One pass over the bits, in the order of memory."""
    return torch.tensor(finite(x), device="cpu")


def finite(x: Tensor) -> bool:
    """The same as a bool, of any tensor whose dtype the kernels read, bytes too."""
    if not dense(x):
        x = x.contiguous()
    where = x.data_ptr(), x.numel(), DTYPES.get(x.dtype, 3)
    return _kernels.all_finite(*where, torch.get_num_threads())
