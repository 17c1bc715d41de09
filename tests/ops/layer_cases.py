"""Inputs of the inference operators' tests: every shape and geometry that may need care."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.ops import ConvGeometry, pack_table
from halut.ops.blocks import Blocks

ROWS = [  # N, columns of a group, G, C, K, M
    (40, 20, 1, 5, 16, 7),
    (33, 7, 3, 2, 8, 4),
    (9, 3, 4, 1, 2, 1),
    (130, 9, 1, 3, 256, 5),
    (1, 64, 1, 16, 16, 70),
    (70, 300, 1, 300, 4, 33),
]
MAPS = [  # Cin, kernel, stride, padding (left, right, top, bottom), dilation, G, C, K, M
    (4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, 4, 16, 8),
    (6, (3, 3), (2, 2), (0, 1, 0, 1), (1, 1), 6, 1, 8, 1),
    (8, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1, 2, 16, 5),
    (4, (2, 3), (1, 2), (2, 0, 1, 3), (2, 1), 2, 3, 4, 3),
    (1, (5, 1), (3, 1), (0, 0, 2, 2), (1, 1), 1, 1, 32, 19),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8]


def random_input(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Values of few bits, as in networks after ReLU: many are zero, and many equal a threshold."""
    x = torch.randint(-24, 60, size).clamp(min=0)
    return x.to(dtype) if dtype == torch.int8 else (x / 16).to(dtype)


def drawn_table(G: int, C: int, K: int, M: int, dtype: torch.dtype = torch.int8) -> Tensor:
    """[G, C, K, M] with the extremes of int8 in it, or N(0, 1)."""
    if dtype != torch.int8:
        return torch.randn(G, C, K, M)
    return torch.randint(-128, 128, (G, C, K, M), dtype=torch.int8)


def drawn_thresholds(GC: int, K: int, dtype: torch.dtype) -> Tensor:
    """[GC, K - 1] on the inputs' own grid, so that ties x == t occur."""
    t = torch.randint(-8, 56, (GC, K - 1)).float()
    return t if dtype == torch.int8 else t / 16


def tree_case(shape, dtype=torch.float32, table_dtype=torch.int8, layout=LAYOUTS[0]):
    """x, taps, thresholds, table, packed, scale, bias; and the geometry, of an entry above."""
    torch.manual_seed(0)
    x, columns, geometry, (G, C, K, M) = _input(shape, dtype, layout)
    taps = torch.randint(0, columns * G, (G * C * (K.bit_length() - 1),))
    thresholds = drawn_thresholds(G * C, K, dtype)
    return (x, taps, thresholds, *_answer(G, C, K, M, table_dtype)), geometry


def nearest_case(shape, dtype=torch.float32, table_dtype=torch.int8, layout=LAYOUTS[0]):
    """x, prototypes, metric, groups, table, packed, scale, bias; and the geometry."""
    torch.manual_seed(0)
    x, columns, geometry, (G, C, K, M) = _input(shape, dtype, layout)
    blocks = Blocks(columns, C, G)
    prototypes = 2 * torch.rand(G * C, K, blocks.V) * (blocks.columns() >= 0)[:, None]
    if dtype == torch.int8:
        prototypes *= 16
    return (x, prototypes, "l2", G, *_answer(G, C, K, M, table_dtype)), geometry


def _input(shape, dtype, layout):
    """x, columns per group, geometry, and (G, C, K, M)."""
    if len(shape) == 6:
        N, D, G, *rest = shape
        return random_input((N, G * D), dtype), D, None, (G, *rest)
    Cin, kernel, stride, padding, dilation, *sizes = shape
    x = random_input((2, Cin, 9, 8), dtype).contiguous(memory_format=layout)
    columns = Cin * kernel[0] * kernel[1] // sizes[0]
    return x, columns, ConvGeometry(kernel, stride, padding, dilation), tuple(sizes)


def _answer(G, C, K, M, dtype):
    table = drawn_table(G, C, K, M, dtype)
    spread = 40 if dtype == torch.float32 else 3000
    return table, pack_table(table), torch.rand(G * M) * 40 / spread / C**0.5, torch.randn(G * M)
