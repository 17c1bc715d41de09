"""Cases of narrow numbers: tails of rows, outputs and inputs, sums in parts, blocks in parts."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.cuda.cuda_case import HALVES, case


def add_products() -> None:
    shapes = [  # N, G, M, D
        *[(70, 1, 65, 36), (64, 1, 64, 32), (3, 2, 5, 7), (1, 1, 1, 1), (130, 3, 9, 33)],
        *[(5, 1, 70, 1100), (2, 1, 3, 4096)],
    ]
    for shape in shapes:
        case("sign_magnitude", f"{shape}", lambda s=shape: _bytes(*s), True)
    case("sign_magnitude", "lowest", lambda: _lowest(9, 4, 9216), True)
    case("sign_magnitude", "unaligned", lambda: _unaligned(66, 6, 64), True)

    for dtype in (torch.float32, *HALVES):
        for shape in ((3, 64), (2, 5, 20), (40, 33), (1, 1)):
            case("mxint8_dequantize", f"{shape}-{dtype}", lambda s=shape, d=dtype: _mx(s, d), True)


def _mx(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, torch.dtype]:
    codes = torch.randint(-128, 128, shape, dtype=torch.int8)
    blocks = (*shape[:-1], -(-shape[-1] // 32))
    scales = torch.randint(0, 255, blocks, dtype=torch.uint8)  # NaN is not equal to NaN
    return codes, scales, dtype


def _bytes(N: int, G: int, M: int, D: int) -> tuple[Tensor, Tensor]:
    x = torch.randint(-128, 128, (N, G * D), dtype=torch.int8)
    return x, torch.randint(-128, 128, (G, M, D), dtype=torch.int8)


def _lowest(N: int, M: int, D: int) -> tuple[Tensor, Tensor]:
    x, weight = _bytes(N, 1, M, D)
    return x.fill_(-128), weight.fill_(-128)


def _unaligned(N: int, M: int, D: int) -> tuple[Tensor, Tensor]:
    x, weight = _bytes(N, 1, M, D)
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(N, D), weight
