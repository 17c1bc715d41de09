"""The table products by the compiled kernels (kernels/cpu/ops/accumulate.cpp,
scatter_add.cpp, quantize.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from halut import _kernels  # type: ignore[attr-defined]
from halut.ops.core import dispatch

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
    out = torch.empty(N, G * M, dtype=torch.float32 if floating else torch.int32, device="cpu")
    run = _kernels.accumulate_float if floating else _kernels.accumulate_int8
    pointers = codes.data_ptr(), table.data_ptr(), out.data_ptr()
    run(*pointers, N, G, C, K, M, torch.get_num_threads())
    return out


def _narrow(codes: Tensor, grad: Tensor, groups: int, K: int) -> bool:
    return grad.dtype != torch.float64


@dispatch.implementation("scatter_add", "cpu", devices=("cpu",), supports=_narrow)
def scatter_add(codes: Tensor, grad: Tensor, groups: int, K: int) -> Tensor:
    """Codebooks and slices of outputs in parallel: the same bits at any number of threads."""
    N, C, M = codes.shape[0], codes.shape[1] // groups, grad.shape[1] // groups
    codes, rows = codes.contiguous(), grad.to(torch.float32).contiguous()
    out = torch.empty(groups, C, K, M, device="cpu")
    pointers = codes.data_ptr(), rows.data_ptr(), out.data_ptr()
    _kernels.scatter_add(*pointers, N, groups, C, K, M, torch.get_num_threads())
    return out.to(grad.dtype)


@dispatch.implementation("quantize", "cpu", devices=("cpu",), dtypes=(torch.float32,))
def quantize(lut: Tensor, bits: int, scale: str, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two passes over the table, slices of outputs, then codebooks, in parallel."""
    G, C, K, M = lut.shape
    lut, limit = lut.contiguous(), float(2 ** (bits - 1) - 1)
    q = torch.empty(lut.shape, dtype=torch.int8, device="cpu")
    steps, offset = torch.empty(G * M, device="cpu"), torch.empty(G, C, 1, M, device="cpu")
    pointers = lut.data_ptr(), q.data_ptr(), steps.data_ptr(), offset.data_ptr()
    options = limit, float(clip), scale == "layer", torch.get_num_threads()
    _kernels.quantize(*pointers, G, C, K, M, *options)
    return q, steps, offset
