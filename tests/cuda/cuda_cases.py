"""Calls of every operation that has a CUDA kernel: odd shapes, every dtype, layout and tail.

Run against the torch implementation, on the CPU through the launch shim and on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halut.blocks import Blocks
from halut.ops import ConvGeometry, dispatch

WINDOW = ConvGeometry((3, 3), (2, 1), (1, 0, 2, 1), (1, 2))
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """One call: `make()` draws its arguments, on the CPU."""

    operation: str
    label: str
    make: Callable[[], tuple[Any, ...]]
    exact: bool = False

    def __str__(self) -> str:
        return f"{self.operation}-{self.label}"


CASES: list[Case] = []


def case(operation: str, label: str, make: Callable[[], tuple[Any, ...]], exact=False) -> None:
    """Add a case; its draws start from a seed of its own."""

    def seeded() -> tuple[Any, ...]:
        torch.manual_seed(sum(map(ord, operation + label)))
        return make()

    CASES.append(Case(operation, label, seeded, exact))


def run(case: Case, implementation: str, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The answers of one implementation, as a tuple."""
    (entry,) = dispatch._candidates(case.operation, "cuda", implementation)
    answer = entry.run(*arguments)
    return answer if isinstance(answer, tuple) else (answer,)


def expected(case: Case) -> tuple[Tensor, ...]:
    """The torch implementation's answers, on the CPU; gradients in float64, then rounded."""
    answers = run(case, "torch", case.make())
    if case.operation not in ("scatter_add", "tree_gradient", "nearest_gradient"):
        return answers
    wide = tuple(
        value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for value in case.make()
    )
    return tuple(
        exact.to(answer.dtype)
        for exact, answer in zip(run(case, "torch", wide), answers, strict=True)
    )


def assert_alike(case: Case, got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    """Equal bits where sums are integer or nothing is summed, close otherwise."""
    for ours, theirs in zip(got, wanted, strict=True):
        ours = ours.cpu()
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.stride() == theirs.stride() or ours.numel() == 0
        if case.exact:
            assert torch.equal(ours, theirs), case
            continue
        scale = theirs.double().abs().max().item() if theirs.numel() else 0.0
        close = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(theirs.dtype, 3e-5)
        if case.operation == "nearest_gradient":
            close = max(close, 3e-4)  # scores of a hundred and more before the softmax
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close * max(scale, 1e-2))


def _tables() -> None:
    shapes = [  # N, G, C, K, M: every kernel, and tails of rows, codebooks and outputs
        *[(130, 2, 5, 16, 7), (65, 1, 9, 16, 130), (300, 1, 3, 8, 40), (200, 1, 17, 32, 128)],
        *[(70, 1, 300, 16, 33), (129, 1, 4, 2, 64), (80, 1, 3, 256, 40), (5, 2, 300, 4, 20)],
        *[(1, 1, 1, 2, 1), (0, 2, 3, 16, 5), (64, 1, 1, 16, 16), (66, 3, 2, 5, 6)],
    ]
    for shape in shapes:
        for dtype in (torch.int8, torch.float32, *HALVES):
            case("accumulate", f"{shape}-{dtype}", lambda s=shape, d=dtype: _table(*s, d),
                 dtype == torch.int8)  # fmt: skip
        case("scatter_add", f"{shape}", lambda s=shape: _rows(*s, torch.float32))
    for dtype in HALVES:
        case("scatter_add", f"{dtype}", lambda d=dtype: _rows(40, 1, 3, 16, 5, d))
    case("scatter_add", "splits", lambda: _rows(1100, 1, 3, 4, 5, torch.float32))


def _table(N, G, C, K, M, dtype) -> tuple[Tensor, Tensor]:
    codes = torch.randint(0, K, (N, G * C), dtype=torch.uint8)
    if dtype == torch.int8:
        return codes, torch.randint(-128, 128, (G, C, K, M), dtype=dtype)
    return codes, torch.randn(G, C, K, M).to(dtype)


def _rows(N, G, C, K, M, dtype) -> tuple[Tensor, Tensor, int, int]:
    codes = torch.randint(0, K, (N, G * C), dtype=torch.uint8)
    return codes, torch.randn(N, G * M).to(dtype), G, K


def _image(layout: str, dtype: torch.dtype) -> Tensor:
    x = torch.randn(3, 5, 9, 8) if dtype.is_floating_point else torch.randint(-9, 9, (3, 5, 9, 8))
    x = x.to(dtype)
    if layout == "sliced":
        return x[:, :, ::2, 1:]
    return x.contiguous(memory_format=getattr(torch, layout))


def _trees() -> None:
    for K in (2, 16, 64, 256):
        for dtype in (torch.float32, *HALVES, torch.int8):
            for turned in (False, True):
                case("tree_encode", f"{K}-{dtype}-{turned}",
                     lambda k=K, d=dtype, t=turned: _tree(131, 37, k, d, t), True)  # fmt: skip
    case("tree_encode", "none", lambda: _tree(0, 3, 16, torch.float32, False), True)
    case("tree_encode", "NaN", _with_nan, True)
    for layout in ("contiguous_format", "channels_last", "sliced"):
        for dtype in (torch.float32, torch.bfloat16, torch.int8):
            case("tree_encode", f"map-{layout}-{dtype}",
                 lambda o=layout, d=dtype: (_image(o, d), *_map_trees(), WINDOW), True)  # fmt: skip
        for dtype in (torch.float32, *HALVES):
            case("tree_gradient", f"map-{layout}-{dtype}",
                 lambda o=layout, d=dtype: _map_gradient(_image(o, d)))  # fmt: skip
    for K in (2, 4, 8, 16, 32, 64, 128, 256):
        case("tree_gradient", f"{K}", lambda k=K: _tree_gradient(13 if k > 32 else 70, k))
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


def _map_trees() -> tuple[Tensor, Tensor]:
    return torch.randint(0, 45, (12 * 4,)), torch.randn(12, 15)


def _map_gradient(x: Tensor) -> tuple[Any, ...]:
    OH, OW = WINDOW.output_size(*x.shape[2:])
    grad = torch.randn(3 * OH * OW, 2 * 5).to(x.dtype)
    lut = torch.randn(2, 6, 16, 5)
    return grad, x, *_map_trees(), lut, torch.tensor(0.8), 1.0, WINDOW


def _tree_gradient(N: int, K: int) -> tuple[Any, ...]:
    G, C, M, depth = 2, 17, 3, K.bit_length() - 1
    x, taps = torch.randn(N, 90), torch.randint(0, 90, (G * C * depth,))
    tensors = torch.randn(G * C, K - 1), torch.randn(G, C, K, M), torch.rand(G * C) + 0.5
    return torch.randn(N, G * M), x, taps, *tensors, 0.7, None


def _convolutions() -> None:
    for layout in ("contiguous_format", "channels_last", "sliced"):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int8):
            case("conv_taps", f"{layout}-{dtype}",
                 lambda o=layout, d=dtype: (_image(o, d), _map_trees()[0], WINDOW),
                 True)  # fmt: skip
    for by_pixel in (False, True):
        for dtype in (torch.float32, torch.float64, *HALVES):
            case("conv_taps_gradient", f"{by_pixel}-{dtype}",
                 lambda p=by_pixel, d=dtype: _taps_gradient(p, d))  # fmt: skip


def _taps_gradient(by_pixel: bool, dtype: torch.dtype) -> tuple[Any, ...]:
    OH, OW = WINDOW.output_size(9, 8)
    taps = torch.randint(0, 45, (30,))
    grad = torch.randn(30, 3 * OH * OW, dtype=torch.float64).to(dtype).t()
    return grad.contiguous() if by_pixel else grad, taps, (3, 5, 9, 8), by_pixel, WINDOW


def _prototypes() -> None:
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


def _layers() -> None:
    for dtype in (torch.float32, *HALVES, torch.int8):
        for layout in ("rows", "contiguous_format", "channels_last"):
            for table in (torch.int8, torch.float32):
                label = f"{dtype}-{layout}-{table}"
                exact = table == torch.int8
                case("tree_layer", label,
                     lambda d=dtype, o=layout, t=table: _tree_layer(d, o, t), exact)  # fmt: skip
    for table in (torch.int8, torch.float32):
        case("code_layer", f"{table}", lambda t=table: _code_layer(t), table == torch.int8)
    for layout in ("rows", "contiguous_format", "channels_last"):
        case("nearest_layer", layout, lambda o=layout: _nearest_layer(o), True)


def _answer(table: Tensor, dtype: torch.dtype) -> tuple[Any, ...]:
    outputs = table.shape[0] * table.shape[3]
    packed = torch.empty(0, dtype=torch.uint8)
    scale, bias = torch.rand(outputs) * 0.2, torch.randn(outputs)
    return table, packed, scale, bias, 0.0 if dtype != torch.int8 else None, dtype


def _tree_layer(dtype: torch.dtype, layout: str, kind: torch.dtype) -> tuple[Any, ...]:
    table = _table(1, 2, 6, 16, 9, kind)[1]
    geometry = None if layout == "rows" else WINDOW
    x = torch.randn(70, 45).to(torch.bfloat16) if layout == "rows" else _image(layout, dtype)
    taps, thresholds = _map_trees()
    return x, taps, thresholds, *_answer(table, dtype), geometry


def _code_layer(kind: torch.dtype) -> tuple[Any, ...]:
    codes, table = _table(90, 2, 6, 16, 9, kind)
    return codes, *_answer(table, torch.int8)


def _nearest_layer(layout: str) -> tuple[Any, ...]:
    table = _table(1, 1, 7, 16, 20, torch.int8)[1]
    geometry = None if layout == "rows" else WINDOW
    x = torch.randn(70, 45) if layout == "rows" else _image(layout, torch.float32)
    prototypes = torch.randn(7, 16, 7) * (Blocks(45, 7).columns() >= 0)[:, None]
    return x, prototypes, "l2", 1, *_answer(table, torch.float32), geometry


_tables()
_trees()
_convolutions()
_prototypes()
_layers()
