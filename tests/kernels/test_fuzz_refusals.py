"""Arguments that do not fit: an answer or a HalutError that says why, never a crash.

One argument of a valid call is replaced: another dtype, a dimension more or less or of another
size, no elements, another device, or None. Whatever comes of it, the process lives, and no error
is anything but a HalutError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from halut import ops
from halut.errors import HalutError
from halut.ops.layer.encoded import window
from tests.kernels.drawn import Draw, every_level

DTYPES = (
    *(torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.bool, torch.int8),
    *(torch.uint8, torch.int16, torch.int32, torch.int64),
)
MAP = ops.ConvGeometry((3, 3), (2, 1), (1, 1, 0, 1))
N, G, C, K, M = 9, 2, 3, 8, 5
WAYS = 30


def _tree(draw: Draw) -> tuple[Tensor, ...]:
    taps = draw.bytes(G * C * 3, high=12, dtype=torch.int64)
    return draw.values(N, 12), taps, draw.values(G * C, K - 1)


def _table(draw: Draw) -> tuple[Tensor, ...]:
    packed = ops.pack_table(table := draw.values(G, C, K, M, dtype=torch.int8))
    return table, packed, draw.values(G * M), draw.values(G * M)


def _luts(draw: Draw) -> tuple[Tensor, ...]:
    return draw.values(G, C, K, M), draw.values(G, C, K, M), draw.values(G * C).abs() + 1


def _codes(draw: Draw) -> Tensor:
    return draw.bytes(N, G * C, high=K)


CALLS: dict[str, Callable[[Draw], tuple[Any, ...]]] = {
    "accumulate": lambda d: (_codes(d), d.values(G, C, K, M)),
    "scatter_add": lambda d: (_codes(d), d.values(N, G * M), G, K),
    "tree_encode": lambda d: (*_tree(d), None),
    "tree_matmul": lambda d: (*_tree(d), *_luts(d), 1.0, None),
    "nearest_encode": lambda d: (d.values(N, 12), d.values(G * C, K, 2), "l2", G),
    "nearest_matmul": lambda d: (d.values(N, 12), d.values(G * C, K, 2), *_luts(d), "l2", G),
    "conv_taps": lambda d: (d.values(2, 4, 6, 5), _tree(d)[1], *window(MAP)),
    "tree_layer": lambda d: (*_tree(d), *_table(d), 0.0, torch.float32, None),
    "code_layer": lambda d: (_codes(d), *_table(d), 0.0, torch.float32),
    "bit_planes": lambda d: (
        *(d.values(2, 12, 4, 3), d.values(3).sort().values, d.bytes(4, high=4), 2, 3),
    ),
    "bit_product": lambda d: (
        *(d.bytes(N, G, 2, 1, dtype=torch.int64), d.bytes(G, 1, 2, M, dtype=torch.int64)),
        *(d.values(G, 2, M), d.values(2), d.values(3, G * M), 8),
    ),
    "nearest_layer": lambda d: (
        *(d.values(N, 12), d.values(G * C, K, 2), "l2", G),
        *_table(d),
        *(0.0, torch.float32, None),
    ),
}


def broken(value: Any, draw: Draw, how: int) -> Any:
    """Another value in place of an argument."""
    if isinstance(value, Tensor):
        changed = [value.to(dtype) for dtype in DTYPES]
        changed += [value[None], value.sum(0), value[:0], value[..., :0], value.to("meta")]
        for dim in range(value.ndim if value.numel() else 0):
            changed += [value.narrow(dim, 0, value.shape[dim] - 1)]
            changed += [torch.cat([value, value.narrow(dim, 0, 1)], dim)]
        if value.dtype == torch.int64:
            changed += [value - 100, value + 100, value * 2**40]
        if value.is_floating_point():
            changed += [value * float("nan"), value * float("inf")]
        return changed[how % len(changed)]
    if value is None:
        return MAP
    if isinstance(value, torch.dtype):
        return DTYPES[how % len(DTYPES)]
    if isinstance(value, str):
        return ("l1", "chebyshev", "cosine", "")[how % 4]
    if isinstance(value, list):
        changed = [[], [1], [0] * len(value), [-1] * len(value), [7] * len(value), [1] * 5]
        return changed[how % 6]
    if isinstance(value, float):
        return (float("nan"), -1.0, float("inf"), 0.0)[how % 4]
    return (0, -1, 1, 3, 2**31, 257)[how % 6]


def test_the_calls_are_valid():
    for name, make in CALLS.items():
        assert getattr(ops, name)(*make(Draw(0))).numel(), name


@pytest.mark.parametrize("name", sorted(CALLS))
def test_every_way_to_break_every_argument(name):
    for at in range(len(CALLS[name](Draw(0)))):
        for how in range(WAYS):
            for level in every_level():
                arguments = list(CALLS[name](Draw(how)))
                arguments[at] = broken(arguments[at], Draw(how), how)
                try:
                    getattr(ops, name)(*arguments)
                except HalutError:
                    continue
                except Exception as error:
                    shown = [tuple(a.shape) if isinstance(a, Tensor) else a for a in arguments]
                    pytest.fail(f"{level}: {name}{shown}, argument {at}, way {how}: {error!r}")
