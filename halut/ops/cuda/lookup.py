"""`accumulate` and `scatter_add` by kernels/cuda/accumulate.cu and scatter_add.cu."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from halut.ops.core import dispatch
from halut.ops.core.checks import workspace
from halut.ops.cpu.view import NUMBERS
from halut.ops.cuda import launch

NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int8: "i8"}
THREADS = 256
STAGED_ROWS = 64
"""Rows from which on staging the table in shared memory pays."""
STAGED_BYTES = 4096
"""Most bytes of a codebook's tile: four of them are a stage."""
SLICES = (8, 32)
"""Into how many parts a row's codebooks may be cut."""
EXACT_BOOKS = 256
"""Codebooks whose biased int8 entries add up in 16 bits."""


def _supports(codes: Tensor, table: Tensor) -> bool:
    return table.dtype in NAMES and launch.available()


@dispatch.implementation("accumulate", "cuda", devices=("cuda",), supports=_supports)
def accumulate(codes: Tensor, table: Tensor) -> Tensor:
    """Table rows are added 16 bytes per thread, from shared memory where enough rows share it."""
    G, _, _, M = table.shape
    dtype = torch.int32 if table.dtype == torch.int8 else table.dtype
    out = torch.empty(codes.shape[0], G * M, dtype=dtype, device=codes.device)
    add_rows(codes, table, out)
    return out


def add_rows(
    codes: Tensor,
    table: Tensor,
    out: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    low: float | None = None,
    plane: int = 0,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> None:
    """Fill `out` with the sums, or, where there is a scale, with max(y, low), y = sums * scale +
    bias + residual * residual_scale.

    out: rows [N, G * M], or with plane = OH * OW the maps [N / plane, G * M, plane]; residual: of
    its shape and strides.
    """
    codes = codes.contiguous()
    epilogue = (out, scale, bias, low, plane, residual, residual_scale)
    kernel, grid, args = adding(codes, codes.shape[0], table, *epilogue)
    launch.launch("accumulate", kernel, codes.device, grid, *args)


def adding(
    codes: Tensor | None,
    N: int,
    table: Tensor,
    out: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    low: float | None,
    plane: int,
    residual: Tensor | None,
    residual_scale: float,
) -> tuple[str, tuple[int, int], tuple[Any, ...]]:
    """(kernel, grid, arguments) of `add_rows`; see CHANGING for where tensors stand in them."""
    (G, C, K, M), table = table.shape, table.contiguous()
    kernel, rows, width = choice(N, C, K, M, table.dtype, G, launch.processors(table.device))
    blocks = -(-N // rows) * G * -(-M * table.element_size() // width)
    least, dtype = float("-inf") if low is None else float(low), np.int32(NUMBERS[out.dtype])
    added = np.int32(0 if residual is None else NUMBERS[residual.dtype])
    epilogue = (out, scale, bias, least, dtype, plane, residual, float(residual_scale), added)
    return kernel, (blocks, THREADS), (codes, table, *epilogue, N, G, C, K, M)


CHANGING = (0, 2, 8, 9, 10)
"""Among the arguments of `adding`: codes, out, residual, its scale and its dtype's number."""


def plane_of(y: Tensor) -> int:
    """`plane` of `adding` for an answer: the pixels of a map's channel, 0 where outputs are
    adjacent."""
    return y.shape[2] * y.shape[3] if y.ndim == 4 and y.is_contiguous() else 0


def choice(
    N: int, C: int, K: int, M: int, dtype: torch.dtype, G: int = 1, processors: int = 1
) -> tuple[str, int, int]:
    """The kernel for a table of this shape, the rows of its blocks and the bytes of its tiles.

    Where staged int8 tables would leave multiprocessors idle, they are read directly instead, by
    as many more threads as share out a row's codebooks. Float tables are not cut so: a sum keeps
    its order of additions, and a row's answer its bits, in a batch of any size.
    """
    size, lanes = dtype.itemsize, 8
    wide = dtype == torch.int8 and C > EXACT_BOOKS
    while dtype == torch.int8 and lanes > 2 and M * size <= lanes * 8 and not wide:
        lanes //= 2
    rows = (2 if wide else 4) * THREADS // lanes
    blocks = -(-N // rows) * G * -(-M * size // (lanes * 16))
    staged = N >= STAGED_ROWS and K * lanes * 16 <= STAGED_BYTES
    if staged and (dtype != torch.int8 or blocks >= processors * lanes // 8):
        return f"accumulate_{NAMES[dtype]}_{lanes}" + ("_wide" if wide else ""), rows, lanes * 16
    slices, rows, tiles = 1, THREADS // 8, G * -(-M * size // 128)
    for more in SLICES if dtype == torch.int8 else ():
        if -(-N * slices // rows) * tiles < 2 * processors and 8 * slices < C:
            slices = more
    name = f"accumulate_{NAMES[dtype]}_direct" + (f"_{slices}" if slices > 1 else "")
    return name, rows // slices, 128


def _supports_scatter(codes: Tensor, grad: Tensor, groups: int, K: int) -> bool:
    return grad.dtype in NAMES and launch.available()


@dispatch.implementation("scatter_add", "cuda", devices=("cuda",), supports=_supports_scatter)
def scatter_add(codes: Tensor, grad: Tensor, groups: int, K: int) -> Tensor:
    """Blocks add runs of rows to tables of their own, which are then added.

    Atomically, in whichever order they come; in a fixed order, for more memory, where
    torch.use_deterministic_algorithms is on.
    """
    N, C, M = codes.shape[0], codes.shape[1] // groups, grad.shape[1] // groups
    codes, grad = codes.contiguous(), grad.contiguous()
    books = min(32, 256 // K, C)
    tiles = groups * -(-C // books) * -(-M // 32)
    entries = groups * C * K * M
    atomic = not torch.are_deterministic_algorithms_enabled()
    most = 1 << 16 if atomic else max(1, workspace(codes.device) // (4 * entries))
    splits = launch.parts(tiles, N, 256, codes.device, most)
    rows = max(32, -(-N // (splits * 32)) * 32)
    splits = max(1, -(-N // rows))
    atomic = atomic and splits > 1
    out = torch.zeros(1 if atomic else splits, entries, dtype=torch.float32, device=codes.device)
    if N:
        kernel, grid = f"scatter_add_{NAMES[grad.dtype]}", (tiles * splits, 32 * min(4, books))
        launch.launch(
            *("scatter_add", kernel, codes.device, grid),
            *(codes, grad, out, N, groups, C, K, M, rows, np.int32(books), atomic),
        )
    out = out[0] if len(out) == 1 else out.sum(0)
    return out.view(groups, C, K, M).to(grad.dtype)
