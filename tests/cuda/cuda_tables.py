"""Cases of the table's kernels: every tail of rows, codebooks and outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.cuda.cuda_case import HALVES, case


def add_tables() -> None:
    shapes = [  # N, G, C, K, M: every kernel, and tails of rows, codebooks and outputs
        *[(130, 2, 5, 16, 7), (65, 1, 9, 16, 130), (300, 1, 3, 8, 40), (200, 1, 17, 32, 128)],
        *[(70, 1, 300, 16, 33), (129, 1, 4, 2, 64), (80, 1, 3, 256, 40), (5, 2, 300, 4, 20)],
        *[(1, 1, 1, 2, 1), (0, 2, 3, 16, 5), (64, 1, 1, 16, 16), (66, 3, 2, 5, 6)],
        *[(400, 1, 12, 16, 130), (200, 1, 300, 16, 144), (7, 1, 80, 16, 48), (1, 2, 515, 4, 20)],
        *[(3, 1, 72, 256, 100), (6, 2, 12, 16, 48), (6, 2, 16, 16, 8)],
    ]
    for shape in shapes:
        for dtype in (torch.int8, torch.float32, *HALVES):
            case("accumulate", f"{shape}-{dtype}", lambda s=shape, d=dtype: drawn_table(*s, d),
                 dtype == torch.int8)  # fmt: skip
        case("scatter_add", f"{shape}", lambda s=shape: _rows(*s, torch.float32))
    for dtype in HALVES:
        case("scatter_add", f"{dtype}", lambda d=dtype: _rows(40, 1, 3, 16, 5, d))
    case("scatter_add", "splits", lambda: _rows(1100, 1, 3, 4, 5, torch.float32))


def drawn_table(N, G, C, K, M, dtype) -> tuple[Tensor, Tensor]:
    codes = torch.randint(0, K, (N, G * C), dtype=torch.uint8)
    if dtype == torch.int8:
        return codes, torch.randint(-128, 128, (G, C, K, M), dtype=dtype)
    return codes, torch.randn(G, C, K, M).to(dtype)


def _rows(N, G, C, K, M, dtype) -> tuple[Tensor, Tensor, int, int]:
    codes = torch.randint(0, K, (N, G * C), dtype=torch.uint8)
    return codes, torch.randn(N, G * M).to(dtype), G, K
