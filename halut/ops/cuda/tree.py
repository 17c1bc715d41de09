"""Hash trees by kernels/cuda/tree_encode.cu and tree_gradient.cu."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from halut.ops.core import dispatch
from halut.ops.core.checks import chunk_rows
from halut.ops.cpu.view import DTYPES, view
from halut.ops.cuda import launch
from halut.ops.cuda.conv import add_columns, fits, readers, rows_adjacent
from halut.ops.cuda.lookup import NAMES
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.columns import column_count, empty_gradient, row_count
from halut.ops.tree.gradient import GAIN

THREADS = 256
ROWS = 128
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def _supports(
    x: Tensor, split_dims: Tensor, thresholds: Tensor, geometry: ConvGeometry | None
) -> bool:
    kinds = x.dtype in DTYPES and thresholds.dtype in FLOATS
    return kinds and fits(x, geometry) and launch.available()


@dispatch.implementation("tree_encode", "cuda", devices=("cuda",), supports=_supports)
def tree_encode(
    x: Tensor, split_dims: Tensor, thresholds: Tensor, geometry: ConvGeometry | None
) -> Tensor:
    """Straight from rows or maps of any strides; comparisons in float32, which is exact."""
    codes = torch.empty(
        *(row_count(x, geometry), thresholds.shape[0]), dtype=torch.uint8, device=x.device
    )
    kernel, grid, args = encoding(x, split_dims, thresholds, geometry, codes)
    launch.launch("tree_encode", kernel, x.device, grid, *args)
    return codes


def encoding(
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    geometry: ConvGeometry | None,
    codes: Tensor | None,
) -> tuple[str, tuple[int, int], tuple[Any, ...]]:
    """(kernel, grid, arguments) that fill codes [N, GC]; arguments 0 and 3 hold x and codes."""
    (GC, nodes), N = thresholds.shape, row_count(x, geometry)
    books = 32 if nodes < 64 else 2048 // (nodes + 1)
    order = "rows" if rows_adjacent(x, geometry) else "books"
    grid = -(-N // ROWS) * -(-GC // books), THREADS
    arguments = view(x, geometry), split_dims.contiguous(), thresholds.float().contiguous()
    depth = np.int32((nodes + 1).bit_length() - 1)
    return f"tree_encode_{NAMES[x.dtype]}_{order}", grid, (*arguments, codes, N, GC, depth)


def _supports_gradient(
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
    kinds = all(value.dtype in FLOATS for value in (grad, x, thresholds, lut))
    return kinds and fits(x, geometry) and launch.available()


@dispatch.implementation("tree_gradient", "cuda", devices=("cuda",), supports=_supports_gradient)
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
    """dE by matrix products in chunks of rows; a kernel takes each chunk through the trees.

    Gradients of the columns are kept for as many whole images as fit the workspace, and added up
    to x's. Every sum has a fixed order.
    """
    images, N = x.shape[0], row_count(x, geometry)
    walk = _Walk(x, split_dims, thresholds, lut, tau, ste_mix, geometry, flips)
    dx = empty_gradient(x)
    if N == 0:
        return dx, *walk.sums()
    who = readers(split_dims, column_count(x, geometry))
    pixels, T = N // images, split_dims.shape[0]
    step = min(images, chunk_rows(4 * T * pixels, x.device))
    adjacent = rows_adjacent(x, geometry)
    for first in range(0, images, step):
        count = min(step, images - first)
        n = count * pixels
        size = (T, n) if adjacent else (n, T)
        dcolumns = torch.empty(size, dtype=torch.float32, device=x.device)
        dcolumns = dcolumns.t() if adjacent else dcolumns
        for start in range(0, n, walk.step):
            rows = slice(start, min(start + walk.step, n))
            walk(grad, first * pixels + start, dcolumns[rows])
        add_columns(dcolumns, who, dx[first : first + count], geometry)
    return dx, *walk.sums()


class _Walk:
    """The pass over the trees, chunk by chunk; holds the sums over rows."""

    def __init__(
        self,
        x: Tensor,
        split_dims: Tensor,
        thresholds: Tensor,
        lut: Tensor,
        tau: Tensor,
        ste_mix: float,
        geometry: ConvGeometry | None,
        flips: bool,
    ) -> None:
        G, C, K, M = lut.shape
        self.gain, self.centered = (1.0, 0.0) if flips else (GAIN, 1.0)
        self.x, self.geometry, self.ste_mix = x, geometry, float(ste_mix)
        self.split_dims, self.thresholds, self.tau = split_dims.contiguous(), thresholds, tau
        self.t = thresholds.float().contiguous()
        self.entries = lut.float().reshape(G, C * K, M).transpose(1, 2)
        self.scale = tau.float().reshape(-1).contiguous()
        self.shape = G, C, K
        self.step = chunk_rows(4 * G * C * K, x.device)
        self.tiles = -(-G * C // (32 if K <= 32 else THREADS // 32))
        self.splits = launch.parts(self.tiles, min(self.step, row_count(x, geometry)), 64, x.device)
        self.dt = torch.zeros(self.splits, G * C, K - 1, dtype=torch.float32, device=x.device)
        self.dtau = torch.zeros(self.splits, G * C, dtype=torch.float32, device=x.device)

    def __call__(self, grad: Tensor, first: int, dcolumns: Tensor) -> None:
        """Rows first .. first + n of grad and x; fills dcolumns [n, T]."""
        G, C, K = self.shape
        n = dcolumns.shape[0]
        columns = grad[first : first + n].float().reshape(n, G, -1).transpose(0, 1)
        products = torch.bmm(columns, self.entries)  # [G, n, C * K]
        rows = -(-n // self.splits)
        kernel, grid = f"tree_gradient_{K.bit_length() - 1}", (self.tiles * -(-n // rows), THREADS)
        launch.launch(
            *("tree_gradient", kernel, self.x.device, grid),
            *(products, view(self.x, self.geometry)),
            *(
                self.split_dims,
                self.t,
                self.scale,
                dcolumns,
                self.dt,
                self.dtau,
                first,
                n,
                G,
                C,
                rows,
            ),
            *(*dcolumns.stride(), self.ste_mix, self.gain, self.centered),
            self.scale.numel() > 1,
            rows_adjacent(self.x, self.geometry),
        )

    def sums(self) -> tuple[Tensor, Tensor]:
        """Gradients of thresholds and tau, in their dtypes and shapes."""
        dtau = self.dtau.sum(0)
        dtau = dtau if self.tau.numel() == dtau.numel() else dtau.sum()
        dt = self.dt.sum(0).to(self.thresholds.dtype)
        return dt, dtau.view(self.tau.shape).to(self.tau.dtype)
