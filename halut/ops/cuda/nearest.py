"""Nearest prototypes by kernels/cuda/nearest_encode.cu and nearest_gradient.cu."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from halut.ops.core import dispatch
from halut.ops.core.checks import chunk_rows, workspace
from halut.ops.cpu.view import DTYPES, view
from halut.ops.cuda import launch
from halut.ops.cuda.conv import add_columns, fits, rows_adjacent
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.columns import column_count, empty_gradient, row_count

ROWS = 128
BOOKS = 8
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MAX_INPUTS = 128
"""V up to which the gradient's kernels keep a block of rows in shared memory."""


def _supports(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int,
    geometry: ConvGeometry | None = None,
) -> bool:
    kinds = x.dtype in DTYPES and prototypes.dtype in FLOATS
    return kinds and fits(x, geometry) and launch.available()


@dispatch.implementation("nearest_encode", "cuda", devices=("cuda",), supports=_supports)
def nearest_encode(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int,
    geometry: ConvGeometry | None = None,
) -> Tensor:
    """Straight from rows or maps; distances in float32, as differences, the lowest of equals."""
    size = row_count(x, geometry), prototypes.shape[0]
    codes = torch.empty(size, dtype=torch.uint8, device=x.device)
    kernel, grid, args = encoding(x, prototypes, metric, groups, geometry, codes)
    launch.launch("nearest_encode", kernel, x.device, grid, *args)
    return codes


def encoding(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int,
    geometry: ConvGeometry | None,
    codes: Tensor | None,
) -> tuple[str, tuple[int, int], tuple[Any, ...]]:
    """(kernel, grid, arguments) that fill codes [N, GC]; arguments 0 and 2 hold x and codes."""
    (GC, K, V), N = prototypes.shape, row_count(x, geometry)
    grid = -(-N // ROWS) * -(-GC // BOOKS), ROWS
    arguments = view(x, geometry), prototypes.float().contiguous(), codes
    shape = N, column_count(x, geometry) // groups, GC // groups, groups, K, V
    return f"nearest_encode_{metric}", grid, (*arguments, *shape, rows_adjacent(x, geometry))


def _supports_gradient(
    grad: Tensor,
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    tau: Tensor,
    metric: str,
    ste_mix: float,
    geometry: ConvGeometry | None = None,
) -> bool:
    kinds = all(value.dtype in FLOATS for value in (grad, x, prototypes, lut))
    small = prototypes.shape[2] <= MAX_INPUTS and fits(x, geometry)
    return kinds and small and launch.available()


@dispatch.implementation("nearest_gradient", "cuda", devices=("cuda",), supports=_supports_gradient)
def nearest_gradient(
    grad: Tensor,
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    tau: Tensor,
    metric: str,
    ste_mix: float,
    geometry: ConvGeometry | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """dE by matrix products in chunks of rows; the kernels recompute the softmax over each chunk.

    For maps the gradients of the im2col rows are kept for as many whole images as fit the
    workspace, and added up to x's. Every sum has a fixed order.
    """
    soft = _Softmax(x, prototypes, lut, tau, metric, ste_mix, geometry)
    dx = empty_gradient(x)
    images, N = x.shape[0], row_count(x, geometry)
    if geometry is None:
        for start in range(0, N, soft.step):
            soft(grad, start, dx[start : start + soft.step])
        return dx, *soft.sums()
    pixels, T = N // max(1, images), column_count(x, geometry)
    each = torch.arange(T + 1, device=x.device)  # every column is read by itself
    step = min(max(1, images), chunk_rows(4 * T * pixels, x.device))
    adjacent = rows_adjacent(x, geometry)
    for first in range(0, images, step):
        count = min(step, images - first)
        n = count * pixels
        size = (T, n) if adjacent else (n, T)
        drows = torch.empty(size, dtype=torch.float32, device=x.device)
        drows = drows.t() if adjacent else drows
        for start in range(0, n, soft.step):
            soft(grad, first * pixels + start, drows[start : start + soft.step])
        add_columns(drows, (each, each), dx[first : first + count], geometry)
    return dx, *soft.sums()


class _Softmax:
    """The passes over a chunk of rows, and what they sum up over rows."""

    def __init__(
        self,
        x: Tensor,
        prototypes: Tensor,
        lut: Tensor,
        tau: Tensor,
        metric: str,
        ste_mix: float,
        geometry: ConvGeometry | None,
    ) -> None:
        G, C, K, M = lut.shape
        GC, _, V = prototypes.shape
        device, N = x.device, row_count(x, geometry)
        self.x, self.metric, self.ste_mix, self.geometry = x, metric, float(ste_mix), geometry
        self.prototypes, self.tau = prototypes, tau
        self.shape = column_count(x, geometry) // G, C, GC, K, V
        self.entries = lut.float().reshape(G, C * K, M)
        self.p = prototypes.float().contiguous()
        self.scale = tau.float().reshape(-1).contiguous()
        bytes_per = 5 if metric == "chebyshev" else 4
        self.step = max(1, min(N, chunk_rows(bytes_per * GC * K, device)))
        self.rows = 128 if V <= 32 else 64 if V <= 64 else 32
        self.tiles = GC * -(-K // 16) * -(-V // 32)
        most = max(1, workspace(device) // (4 * self.p.numel()))
        self.splits = launch.parts(self.tiles, self.step, 256, device, most)
        self.dp = torch.zeros(self.splits, GC, K, V, dtype=torch.float32, device=device)
        self.dtau = torch.zeros(-(-self.step // self.rows), GC, dtype=torch.float32, device=device)
        size = GC * K * self.step if metric == "chebyshev" else 0
        self.farthest = torch.empty(size, dtype=torch.uint8, device=device)

    def __call__(self, grad: Tensor, first: int, dx: Tensor) -> None:
        """Rows first .. first + n of grad and x; fills dx [n, groups * D]."""
        n, G, device = dx.shape[0], self.entries.shape[0], self.x.device
        columns = grad[first : first + n].float().reshape(n, G, -1).permute(1, 2, 0)
        slopes = torch.bmm(self.entries, columns)  # [G, C * K, n], dE
        arguments = (
            *(view(self.x, self.geometry), self.p, self.scale, slopes, self.farthest, dx),
            *(self.dtau, first, n, *self.shape, *dx.stride(), self.ste_mix),
            *(np.int32(DTYPES[dx.dtype]), self.scale.numel() > 1),
            rows_adjacent(self.x, self.geometry),
        )
        run = -(-n // self.splits)
        blocks = self.shape[2] * -(-n // self.rows), self.tiles * -(-n // run)
        name, metric = "nearest_gradient", self.metric
        launch.launch(name, f"nearest_slopes_{metric}", device, (blocks[0], self.rows), *arguments)
        launch.launch(
            *(name, f"nearest_prototypes_{metric}", device, (blocks[1], 128)),
            *(*arguments, self.dp, run),
        )

    def sums(self) -> tuple[Tensor, Tensor]:
        """Gradients of prototypes and tau, in their dtypes and shapes."""
        dtau = self.dtau.sum(0)
        dtau = dtau if self.tau.numel() == dtau.numel() else dtau.sum()
        dp = self.dp.sum(0).to(self.prototypes.dtype)
        return dp, dtau.view(self.tau.shape).to(self.tau.dtype)
