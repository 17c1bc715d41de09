"""Nearest prototypes by kernels/cuda/nearest_encode.cu and nearest_gradient.cu."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from halut.ops import dispatch
from halut.ops.checks import chunk_rows, workspace
from halut.ops.columns import column_count, row_count
from halut.ops.conv import ConvGeometry
from halut.ops.cpu.view import DTYPES, view
from halut.ops.cuda import launch
from halut.ops.cuda.conv import fits, rows_adjacent

ROWS = 128
BOOKS = 8
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MOST_INPUTS = 128
"""V up to which the gradient's kernels keep a block of rows in shared memory."""


def _supports(x: Tensor, prototypes: Tensor, metric: str, groups: int) -> bool:
    return x.dtype in DTYPES and prototypes.dtype in FLOATS and launch.available()


@dispatch.implementation("nearest_encode", "cuda", devices=("cuda",), supports=_supports)
def nearest_encode(x: Tensor, prototypes: Tensor, metric: str, groups: int) -> Tensor:
    """Distances in float32, as differences; equal ones take the lowest index."""
    return encode(x, prototypes, metric, groups, None)


def encode(
    x: Tensor, prototypes: Tensor, metric: str, groups: int, geometry: ConvGeometry | None
) -> Tensor:
    """Codes [N, GC] of rows, or straight from the maps x whose im2col rows are meant."""
    N = row_count(x, geometry)
    GC, K, V = prototypes.shape
    codes = torch.empty(N, GC, dtype=torch.uint8, device=x.device)
    grid, p = (-(-N // ROWS) * -(-GC // BOOKS), ROWS), prototypes.float().contiguous()
    D = column_count(x, geometry) // groups
    launch.launch(
        *("nearest_encode", f"nearest_encode_{metric}", x.device, grid, view(x, geometry), p),
        *(codes, N, D, GC // groups, groups, K, V, rows_adjacent(x, geometry)),
    )
    return codes


def maps_fit(x: Tensor, geometry: ConvGeometry | None) -> bool:
    """True if `encode` reads x."""
    return x.dtype in DTYPES and fits(x, geometry)


def _supports_gradient(
    grad: Tensor,
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    tau: Tensor,
    metric: str,
    relax: float,
) -> bool:
    kinds = all(value.dtype in FLOATS for value in (grad, x, prototypes, lut))
    return kinds and prototypes.shape[2] <= MOST_INPUTS and launch.available()


@dispatch.implementation("nearest_gradient", "cuda", devices=("cuda",), supports=_supports_gradient)
def nearest_gradient(
    grad: Tensor,
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    tau: Tensor,
    metric: str,
    relax: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dE by matrix products in chunks of rows; the kernels recompute the softmax over each chunk.

    Every sum has a fixed order.
    """
    G, C, K, M = lut.shape
    GC, _, V = prototypes.shape
    N, device = x.shape[0], x.device
    entries = lut.float().reshape(G, C * K, M)
    p, scale = prototypes.float().contiguous(), tau.float().reshape(-1).contiguous()
    dx = torch.empty(x.shape, dtype=x.dtype, device=device)
    step = max(1, min(N, chunk_rows((5 if metric == "chebyshev" else 4) * GC * K, device)))
    rows = 128 if V <= 32 else 64 if V <= 64 else 32
    tiles = GC * -(-K // 16) * -(-V // 32)
    most = max(1, workspace(device) // (4 * p.numel()))
    splits = launch.parts(tiles, step, 256, device, most)
    dp = torch.zeros(splits, GC, K, V, dtype=torch.float32, device=device)
    dtau = torch.zeros(-(-step // rows), GC, dtype=torch.float32, device=device)
    farthest = torch.empty(
        GC * K * step if metric == "chebyshev" else 0, dtype=torch.uint8, device=device
    )
    for first in range(0, N, step):
        n = min(step, N - first)
        columns = grad[first : first + n].float().reshape(n, G, M).permute(1, 2, 0)
        slopes = torch.bmm(entries, columns)  # [G, C * K, n], dE
        arguments = (
            *(x, p, scale, slopes, farthest, dx, dtau, first, n, x.shape[1] // G, C, GC, K, V),
            *(*x.stride(), float(relax), np.int32(DTYPES[x.dtype]), scale.numel() > 1),
            rows_adjacent(x, None),
        )
        run = -(-n // splits)
        name = "nearest_gradient"
        grids = (GC * -(-n // rows), rows), (tiles * -(-n // run), 128)
        launch.launch(name, f"nearest_slopes_{metric}", device, grids[0], *arguments)
        launch.launch(name, f"nearest_prototypes_{metric}", device, grids[1], *arguments, dp, run)
    total = dtau.sum(0)
    total = total if tau.numel() == GC else total.sum()
    return dx, dp.sum(0).to(prototypes.dtype), total.view(tau.shape).to(tau.dtype)
