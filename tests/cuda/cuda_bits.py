"""Cases of bit planes and their products: tails of rows, inputs, words and outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.cuda.cuda_case import case


def add_bits() -> None:
    shapes = [  # N, G, J, W, I, M, P
        *[(33, 1, 1, 1, 1, 33, 1), (40, 2, 3, 2, 2, 17, 4), (5, 1, 2, 9, 3, 64, 5)],
        *[(1, 3, 8, 1, 8, 1, 1), (64, 1, 1, 3, 2, 32, 32), (0, 1, 2, 1, 1, 3, 1)],
    ]
    for shape in shapes:
        case("bit_product", f"{shape}", lambda s=shape: drawn_words(*s), exact=True)
    maps = [((33, 40), 1, 1, 1), ((2, 12, 5, 7), 2, 3, 2), ((1, 66, 9, 8), 3, 255, 8)]
    for size, groups, T, J in maps:
        for layout in ("contiguous", "transposed"):
            case("bit_planes", f"{size}-{layout}",
                 lambda a=(size, groups, T, J), b=layout: drawn_map(*a, b), exact=True)  # fmt: skip


def drawn_words(N, G, J, W, I, M, P) -> tuple[Tensor, ...]:
    D = 64 * W - 13
    there = torch.full((W,), -1)
    there[-1] = (1 << 51) - 1
    x = torch.randint(-(2**63), 2**63 - 1, (N, G, J, W)) & there
    w = torch.randint(-(2**63), 2**63 - 1, (G, W, I, M)) & there[:, None, None]
    return x, w, torch.randn(G, I, M), torch.randn(J), torch.randn(P, G * M), D


def drawn_map(size, groups, T, J, layout) -> tuple[Tensor, Tensor, Tensor, int, int]:
    x = torch.randn(size)
    if layout == "transposed":
        x = x.transpose(1, -1).contiguous().transpose(1, -1)
    thresholds = torch.randn(T).sort().values
    x[0, 0] = thresholds[0]
    table = torch.randint(0, 2**J, (T + 1,), dtype=torch.uint8)
    return x, thresholds, table, J, groups
