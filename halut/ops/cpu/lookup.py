"""`accumulate` by the compiled kernels (kernels/cpu/ops/accumulate.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from halut import _kernels  # type: ignore[attr-defined]
from halut.ops import dispatch

TABLES = (torch.float32, torch.int8)


def _supports(codes: Tensor, table: Tensor) -> bool:
    return table.dtype in TABLES


@dispatch.implementation("accumulate", "cpu", devices=("cpu",), supports=_supports)
def accumulate(codes: Tensor, table: Tensor) -> Tensor:
    """Rows of the table are added one at a time, blocks of rows in parallel."""
    G, C, K, M = table.shape
    N = codes.shape[0]
    codes, table = codes.contiguous(), table.contiguous()
    floating = table.dtype == torch.float32
    out = torch.empty(N, G * M, dtype=torch.float32 if floating else torch.int32)
    run = _kernels.accumulate_float if floating else _kernels.accumulate_int8
    pointers = codes.data_ptr(), table.data_ptr(), out.data_ptr()
    run(*pointers, N, G, C, K, M, torch.get_num_threads())
    return out
