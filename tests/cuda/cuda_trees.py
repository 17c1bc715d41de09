"""Cases of the trees' and the taps' kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halut.ops import ConvGeometry
from tests.cuda.cuda_case import HALVES, WINDOW, case, image


def add_trees() -> None:
    for K in (2, 16, 64, 256):
        for dtype in (torch.float32, *HALVES, torch.int8):
            for turned in (False, True):
                case("tree_encode", f"{K}-{dtype}-{turned}",
                     lambda k=K, d=dtype, t=turned: _tree(131, 37, k, d, t), True)  # fmt: skip
    for K in (4, 8, 32, 128):
        for turned in (False, True):
            case("tree_encode", f"{K}-{turned}",
                 lambda k=K, t=turned: _tree(67, 36, k, torch.float32, t), True)  # fmt: skip
    for GC in (1, 3, 4, 40):  # lanes that a row takes; codes stored in words, or not
        for turned in (False, True):
            case("tree_encode", f"{GC} trees-{turned}",
                 lambda c=GC, t=turned: _tree(150, c, 16, torch.float16, t), True)  # fmt: skip
    for layout in ("contiguous_format", "channels_last"):
        case("tree_encode", f"7 x 7-{layout}", lambda o=layout: _wide_window(o), True)
    case("tree_encode", "none", lambda: _tree(0, 3, 16, torch.float32, False), True)
    case("tree_encode", "NaN", _with_nan, True)
    for layout in ("contiguous_format", "channels_last", "sliced"):
        for dtype in (torch.float32, torch.bfloat16, torch.int8):
            case("tree_encode", f"map-{layout}-{dtype}",
                 lambda o=layout, d=dtype: (image(o, d), *map_trees(), WINDOW), True)  # fmt: skip
        for dtype in (torch.float32, *HALVES):
            case("tree_gradient", f"map-{layout}-{dtype}",
                 lambda o=layout, d=dtype: _map_gradient(image(o, d)))  # fmt: skip
    for K in (2, 4, 8, 16, 32, 64, 128, 256):
        case("tree_gradient", f"{K}", lambda k=K: _tree_gradient(13 if k > 32 else 70, k))
        case("tree_gradient", f"{K}-flips",
             lambda k=K: (*_tree_gradient(13 if k > 32 else 70, k), True))  # fmt: skip
    case("tree_gradient", "none", lambda: _tree_gradient(0, 16))


def _tree(N: int, GC: int, K: int, dtype: torch.dtype, turned: bool) -> tuple[Any, ...]:
    depth, D = K.bit_length() - 1, 50
    x = (torch.randn(N, D) * 20).to(dtype)
    x = x.t().contiguous().t() if turned else x
    return x, torch.randint(0, D, (GC * depth,)), torch.randn(GC, K - 1) * 20, None


def _with_nan() -> tuple[Any, ...]:
    x, *rest = _tree(50, 5, 16, torch.float32, False)
    x[::3] = float("nan")
    x[1::3] = float("inf")
    return x, *rest


def _wide_window(layout: str) -> tuple[Any, ...]:
    """More positions than a word has bits."""
    geometry = ConvGeometry((7, 7), (2, 2), (3, 3, 3, 3))
    return image(layout, torch.float32), torch.randint(0, 245, (48,)), torch.randn(12, 15), geometry


def map_trees() -> tuple[Tensor, Tensor]:
    return torch.randint(0, 45, (12 * 4,)), torch.randn(12, 15)


def _map_gradient(x: Tensor) -> tuple[Any, ...]:
    OH, OW = WINDOW.output_size(*x.shape[2:])
    grad = torch.randn(3 * OH * OW, 2 * 5).to(x.dtype)
    lut = torch.randn(2, 6, 16, 5)
    return grad, x, *map_trees(), lut, torch.tensor(0.8), 1.0, WINDOW


def _tree_gradient(N: int, K: int) -> tuple[Any, ...]:
    G, C, M, depth = 2, 17, 3, K.bit_length() - 1
    x, taps = torch.randn(N, 90), torch.randint(0, 90, (G * C * depth,))
    tensors = torch.randn(G * C, K - 1), torch.randn(G, C, K, M), torch.rand(G * C) + 0.5
    return torch.randn(N, G * M), x, taps, *tensors, 0.7, None


def add_convolutions() -> None:
    for layout in ("contiguous_format", "channels_last", "sliced"):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int8):
            case("conv_taps", f"{layout}-{dtype}",
                 lambda o=layout, d=dtype: (image(o, d), map_trees()[0], WINDOW),
                 True)  # fmt: skip
    for channels_last in (False, True):
        for dtype in (torch.float32, torch.float64, *HALVES):
            case("conv_taps_gradient", f"{channels_last}-{dtype}",
                 lambda p=channels_last, d=dtype: _taps_gradient(p, d))  # fmt: skip


def _taps_gradient(channels_last: bool, dtype: torch.dtype) -> tuple[Any, ...]:
    OH, OW = WINDOW.output_size(9, 8)
    taps = torch.randint(0, 45, (30,))
    grad = torch.randn(30, 3 * OH * OW, dtype=torch.float64).to(dtype).t()
    return grad.contiguous() if channels_last else grad, taps, (3, 5, 9, 8), channels_last, WINDOW
