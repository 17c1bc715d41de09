"""Cases of whole layers for inference."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
from torch import Tensor

from halut.ops import ConvGeometry
from halut.ops.blocks import Blocks
from halut.ops.epilogue import output_size_of
from halut.ops.lookup.columns import row_count
from tests.cuda.cuda_case import HALVES, WINDOW, case, image
from tests.cuda.cuda_tables import drawn_table
from tests.cuda.cuda_trees import map_trees


def add_layers() -> None:
    for dtype in (torch.float32, *HALVES, torch.int8):
        for layout in ("rows", "contiguous_format", "channels_last"):
            for table in (torch.int8, torch.float32):
                label = f"{dtype}-{layout}-{table}"
                exact = table == torch.int8
                case("tree_layer", label,
                     lambda d=dtype, o=layout, t=table: _tree_layer(d, o, t), exact)  # fmt: skip
    for layout in ("rows", "contiguous_format", "channels_last"):
        for dtype in (torch.uint8, torch.int8, torch.float32, torch.bfloat16):
            case("tree_layer", f"{layout}-residual-{dtype}",
                 lambda o=layout, d=dtype: _with_residual(o, d), True)  # fmt: skip
    kinds = (torch.float32, *HALVES, torch.int8, torch.uint8)
    for i, (dtype, layout) in enumerate(product(kinds, ("contiguous_format", "channels_last"))):
        for shift in (0, 1, 3):  # of the residual: its groups of four are aligned, or are not
            for images in (1, 6):
                drawn = dtype, layout, kinds[(i + shift) % 5], shift, images
                case("tree_layer", f"fours-{drawn}", lambda a=drawn: _in_fours(*a), True)
    for dtype in (torch.float32, *HALVES):
        for layout in ("rows", "contiguous_format", "channels_last"):
            case("tree_layer", f"{layout}-not-finite-{dtype}",
                 lambda d=dtype, o=layout: _not_finite(d, o), True)  # fmt: skip
    many = 3000  # more rows than there are warps
    case(
        "tree_layer", "rows-not-finite-many", lambda: _not_finite(torch.float32, "rows", many), True
    )
    for table in (torch.int8, torch.float32):
        case("code_layer", f"{table}", lambda t=table: _code_layer(t), table == torch.int8)
    for layout in ("contiguous_format", "channels_last"):
        case("code_map", layout, lambda o=layout: _code_map(o), True)
    for layout in ("rows", "contiguous_format", "channels_last"):
        case("nearest_layer", layout, lambda o=layout: _nearest_layer(o), True)


def _answer(table: Tensor, dtype: torch.dtype) -> tuple[Any, ...]:
    outputs = table.shape[0] * table.shape[3]
    packed = torch.empty(0, dtype=torch.uint8)
    scale, bias = torch.rand(outputs) * 0.2, torch.randn(outputs)
    return table, packed, scale, bias, 0.0 if dtype != torch.int8 else None, dtype


def _tree_layer(dtype: torch.dtype, layout: str, kind: torch.dtype) -> tuple[Any, ...]:
    table = drawn_table(1, 2, 6, 16, 9, kind)[1]
    geometry = None if layout == "rows" else WINDOW
    x = torch.randn(70, 46).to(torch.bfloat16) if layout == "rows" else image(layout, dtype)
    taps, thresholds = map_trees()
    return x, taps, thresholds, *_answer(table, dtype), geometry


def _not_finite(dtype: torch.dtype, layout: str, N: int = 70) -> tuple[Any, ...]:
    """NaN and infinities in a few places of two groups, also where no tree reads."""
    _, taps, thresholds, *rest, geometry = _tree_layer(dtype, layout, torch.int8)
    if layout == "rows":
        x = torch.randn(N, 46).to(dtype)
        # Of many rows none in the first block's share, whose thread clears what others add to.
        x[N // 2, 0], x[-1, 22] = float("inf"), float("-inf")
        if N < 1000:
            x[3, 45] = float("nan")
    else:
        x = torch.randn(3, 6, 9, 8).to(dtype, memory_format=getattr(torch, layout))
        x[0, 1, 2, 3], x[2, 5, 8, 7] = float("nan"), float("-inf")
    return x, taps, thresholds, *rest[:-1], dtype, geometry


def _with_residual(layout: str, kind: torch.dtype) -> tuple[Any, ...]:
    """Answers in uint8, below 0 and above 255 too; the residual lies contiguously."""
    inputs = _tree_layer(torch.int8, layout, torch.int8)
    *rest, _, geometry = inputs
    size, _ = output_size_of(inputs[0], 2 * 9, geometry)
    residual = torch.randint(-100 if kind.is_signed else 0, 600, size).to(kind)
    return *rest, torch.uint8, geometry, residual, 0.5


def _in_fours(dtype, layout, kind, shift, images) -> tuple[Any, ...]:
    """Outputs and pixels of which four and four are answers side by side."""
    geometry = ConvGeometry((3, 3), padding=(1, 1, 1, 1))
    x = torch.randint(-9, 9, (images, 5, 8, 12), dtype=torch.int8)
    x = x.contiguous(memory_format=getattr(torch, layout))
    table = drawn_table(1, 2, 6, 16, 20 if images > 1 else 132, torch.int8)[1]
    size, form = output_size_of(x, 2 * table.shape[3], geometry)
    room = torch.randint(0, 100, (math.prod(size) + shift,)).to(kind)
    like = torch.empty(size, memory_format=form)
    residual = room[shift:].as_strided(size, like.stride(), shift)
    answer = _answer(table, dtype)
    return x, *map_trees(), *answer, geometry, residual, 0.5


def _code_layer(kind: torch.dtype) -> tuple[Any, ...]:
    codes, table = drawn_table(90, 2, 6, 16, 9, kind)
    return codes, *_answer(table, torch.int8)


def _code_map(layout: str) -> tuple[Any, ...]:
    x = image(layout, torch.float32)
    codes, table = drawn_table(row_count(x, WINDOW), 2, 6, 16, 9, torch.int8)
    return codes, *_answer(table, torch.float32), x, WINDOW


def _nearest_layer(layout: str) -> tuple[Any, ...]:
    table = drawn_table(1, 1, 7, 16, 20, torch.int8)[1]
    geometry = None if layout == "rows" else WINDOW
    x = torch.randn(70, 45) if layout == "rows" else image(layout, torch.float32)
    prototypes = torch.randn(7, 16, 7) * (Blocks(45, 7).columns() >= 0)[:, None]
    return x, prototypes, "l2", 1, *_answer(table, torch.float32), geometry
