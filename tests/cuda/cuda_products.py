"""Cases of products of narrow integers: tails of rows, outputs and inputs, sums in parts."""

from __future__ import annotations

import torch
from cuda_case import case
from torch import Tensor


def add_products() -> None:
    shapes = [  # N, G, M, D
        *[(70, 1, 65, 36), (64, 1, 64, 32), (3, 2, 5, 7), (1, 1, 1, 1), (130, 3, 9, 33)],
        *[(5, 1, 70, 1100), (2, 1, 3, 4096)],
    ]
    for shape in shapes:
        case("sign_magnitude", f"{shape}", lambda s=shape: _bytes(*s), True)
    case("sign_magnitude", "lowest", lambda: _lowest(9, 4, 9216), True)
    case("sign_magnitude", "unaligned", lambda: _unaligned(66, 6, 64), True)


def _bytes(N: int, G: int, M: int, D: int) -> tuple[Tensor, Tensor]:
    x = torch.randint(-128, 128, (N, G * D), dtype=torch.int8)
    return x, torch.randint(-128, 128, (G, M, D), dtype=torch.int8)


def _lowest(N: int, M: int, D: int) -> tuple[Tensor, Tensor]:
    x, weight = _bytes(N, 1, M, D)
    return x.fill_(-128), weight.fill_(-128)


def _unaligned(N: int, M: int, D: int) -> tuple[Tensor, Tensor]:
    x, weight = _bytes(N, 1, M, D)
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(N, D), weight
