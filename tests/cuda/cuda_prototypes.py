"""Cases of the nearest prototypes' kernels."""

from __future__ import annotations

from typing import Any

import torch

from halut.ops.blocks import Blocks
from tests.cuda.cuda_case import HALVES, WINDOW, case, image


def add_prototypes() -> None:
    shapes = [  # N, G, D, C, K
        *[(150, 1, 27, 3, 16), (131, 2, 20, 3, 4), (70, 1, 100, 2, 40), (40, 1, 70, 1, 256)],
        *[(65, 1, 9, 9, 2), (0, 1, 9, 3, 16), (1, 1, 1, 1, 2)],
    ]
    for metric in ("l2", "l1", "chebyshev"):
        for shape in shapes:
            case("nearest_encode", f"{metric}-{shape}",
                 lambda m=metric, s=shape: _nearest(*s, m), True)  # fmt: skip
            case("nearest_gradient", f"{metric}-{shape}",
                 lambda m=metric, s=shape: _nearest_gradient(*s, m))  # fmt: skip
        case("nearest_encode", f"{metric}-wide",
             lambda m=metric: _nearest(40, 1, 260, 2, 16, m), True)  # fmt: skip
    for layout in ("contiguous_format", "channels_last", "sliced"):
        for dtype, metric in ((torch.float32, "l2"), (torch.bfloat16, "chebyshev")):
            drawn = layout, dtype, metric
            case("nearest_encode", f"map-{drawn}", lambda a=drawn: _map_nearest(*a), True)
            case("nearest_gradient", f"map-{drawn}", lambda a=drawn: _map_nearest_gradient(*a))
    for dtype in (*HALVES, torch.int8):
        case(
            "nearest_encode", f"{dtype}", lambda d=dtype: _nearest(70, 1, 27, 3, 16, "l2", d), True
        )
    case("nearest_gradient", "float16",
         lambda: _nearest_gradient(70, 1, 27, 3, 16, "l2", torch.float16))  # fmt: skip


def _nearest(N, G, D, C, K, metric, dtype=torch.float32) -> tuple[Any, ...]:
    """Small integers: distances are exact, and equal ones frequent."""
    blocks = Blocks(D, C, G)
    x = torch.randint(-4, 5, (N, G * D)).to(dtype)
    if N > 9 and dtype == torch.float32:
        x[7, 0] = float("nan")
    prototypes = torch.randint(-4, 5, (G * C, K, blocks.V)).float()
    return x, prototypes * (blocks.columns() >= 0)[:, None], metric, G


def _nearest_gradient(N, G, D, C, K, metric, dtype=torch.float32) -> tuple[Any, ...]:
    blocks = Blocks(D, C, G)
    x, lut = torch.randn(N, G * D).to(dtype), torch.randn(G, C, K, 5)
    prototypes = torch.randn(G * C, K, blocks.V) * (blocks.columns() >= 0)[:, None]
    tau = torch.rand(G * C) + 0.5 if K > 2 else torch.tensor(0.9)
    return torch.randn(N, G * 5), x, prototypes, lut, tau, metric, 0.7


def _map_nearest(layout: str, dtype: torch.dtype, metric: str) -> tuple[Any, ...]:
    x = image(layout, torch.int8).to(dtype)
    prototypes = torch.randint(-4, 5, (7, 16, 7)).float() * (Blocks(45, 7).columns() >= 0)[:, None]
    return x, prototypes, metric, 1, WINDOW


def _map_nearest_gradient(layout: str, dtype: torch.dtype, metric: str) -> tuple[Any, ...]:
    x = image(layout, dtype)
    OH, OW = WINDOW.output_size(*x.shape[2:])
    prototypes = torch.randn(7, 16, 7) * (Blocks(45, 7).columns() >= 0)[:, None]
    lut, grad = torch.randn(1, 7, 16, 5), torch.randn(3 * OH * OW, 5)
    return grad, x, prototypes, lut, torch.tensor(0.9), metric, 0.7, WINDOW
