"""Hash trees by the compiled kernels (kernels/cpu/ops/tree_encode.cpp and tree_gradient.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from halut import _kernels  # type: ignore[attr-defined]
from halut.ops.core import dispatch
from halut.ops.cpu.view import DTYPES, refuse, view
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.columns import column_count, row_count, zero_gradient
from halut.ops.tree.encode import tree_shape

CHUNK_ROWS = 512
CHUNK_PRODUCTS = 1 << 18
"""Rows, and products of grad with table entries, taken at once: 1 MiB, which stays in cache."""


def _encodes(
    x: Tensor, split_dims: Tensor, thresholds: Tensor, geometry: ConvGeometry | None
) -> bool:
    # Narrow thresholds are compared as float32 or, with the inputs of their dtype, as they are:
    # the same answer.
    return x.dtype in DTYPES and thresholds.dtype != torch.float64


@dispatch.implementation("tree_encode", "cpu", devices=("cpu",), supports=_encodes)
def tree_encode(
    x: Tensor, split_dims: Tensor, thresholds: Tensor, geometry: ConvGeometry | None
) -> Tensor:
    """Tiles of rows in parallel, each walking one tree after the other."""
    GC, depth = tree_shape(thresholds)
    split_dims, thresholds = split_dims.contiguous(), thresholds.to(torch.float32).contiguous()
    codes = torch.empty(row_count(x, geometry), GC, dtype=torch.uint8, device="cpu")
    pointers = split_dims.data_ptr(), thresholds.data_ptr(), codes.data_ptr()
    if not _kernels.tree_encode(view(x, geometry), *pointers, GC, depth, torch.get_num_threads()):
        refuse(split_dims, column_count(x, geometry))
    return codes


def _differentiates(
    grad: Tensor,
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    tau: Tensor,
    ste_mix: float,
    geometry: ConvGeometry | None,
    flips: bool = False,
) -> bool:
    wide = any(value.dtype == torch.float64 for value in (x, thresholds, lut, tau))
    return x.dtype in DTYPES and not wide


@dispatch.implementation("tree_gradient", "cpu", devices=("cpu",), supports=_differentiates)
def tree_gradient(
    grad: Tensor,
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    tau: Tensor,
    ste_mix: float,
    geometry: ConvGeometry | None,
    flips: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix products of a chunk of rows and codebooks, then one pass over them, and again.

    A chunk's sums have one order, whatever the number of threads.
    """
    G, C, K, M = lut.shape
    N, depth = grad.shape[0], K.bit_length() - 1
    narrow = x.dtype != torch.float32
    dx = zero_gradient(x, torch.float32)
    dthresholds = torch.zeros(G * C, K - 1, device="cpu")
    dtau = torch.zeros(G * C, device="cpu")
    entries = lut.to(torch.float32).reshape(G, C * K, M)
    rows = grad.to(torch.float32).reshape(N, G, M)
    split_dims, t = split_dims.contiguous(), thresholds.to(torch.float32).contiguous()
    taus = tau.to(torch.float32).expand(G * C).contiguous()
    views = view(x, geometry), view(dx, geometry)
    inputs = split_dims.data_ptr(), t.data_ptr(), taus.data_ptr(), float(ste_mix), flips
    results = depth, dthresholds.data_ptr(), dtau.data_ptr(), torch.get_num_threads()
    n_most, C_most = min(CHUNK_ROWS, N), max(1, min(C, CHUNK_PRODUCTS // (CHUNK_ROWS * K)))
    block = torch.empty(C_most * K * n_most, device="cpu")
    for g in range(G):
        for n0 in range(0, N, CHUNK_ROWS):
            columns = rows[n0 : n0 + CHUNK_ROWS, g].t()
            n = columns.shape[1]
            for c0 in range(0, C, C_most):
                c1 = min(c0 + C_most, C)
                products = block[: (c1 - c0) * K * n].view(-1, n)
                torch.mm(entries[g, c0 * K : c1 * K], columns, out=products)
                where = products.data_ptr(), n, n0, n, g * C + c0, g * C + c1
                if not _kernels.tree_gradient(*views, *inputs, *where, *results):
                    refuse(split_dims, column_count(x, geometry))
    dtau = dtau.view(tau.shape) if tau.numel() == G * C else dtau.sum().view(tau.shape)
    dx = dx.to(x.dtype) if narrow else dx
    return dx, dthresholds.to(thresholds.dtype), dtau.to(tau.dtype)
