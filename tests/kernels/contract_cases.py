"""Fixed inputs of every operation, as its implementations are called (`dispatch.run`).

All floating values are fractions of a few bits, so that sums and distances are exact in any order
and every implementation can be asked for the same bits; only gradients through tanh and softmax
are compared up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from halut.ops import ConvGeometry
from halut.ops.blocks import Blocks
from tests.kernels.drawn import Draw, arranged

ROWS = [  # N, inputs of a group, G, C, K, M
    (40, 20, 1, 5, 16, 7),
    (33, 7, 3, 2, 8, 4),
    (9, 3, 4, 1, 2, 1),
    (130, 9, 1, 3, 16, 65),
    (1, 64, 1, 16, 16, 70),
    (70, 300, 1, 300, 4, 33),
    (0, 4, 1, 2, 4, 3),
    (257, 4, 1, 1, 256, 16),
]
MAPS = [
    (ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1)), (5, 7)),
    (ConvGeometry((1, 1), (2, 2)), (8, 8)),
    (ConvGeometry((1, 1)), (13, 11)),
    (ConvGeometry((2, 3), (1, 2), (2, 0, 1, 3), (2, 1)), (9, 6)),
]
EMPTY = torch.empty(0, dtype=torch.uint8)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)

Case = tuple[Any, ...]


def tables(draw: Draw, G: int, C: int, K: int, M: int) -> Iterator[torch.Tensor]:
    for dtype in (torch.int8, torch.float32, torch.float64):
        yield draw.values(G, C, K, M, dtype=dtype)


def accumulate() -> Iterator[Case]:
    for N, _, G, C, K, M in ROWS:
        draw = Draw(N)
        codes = draw.bytes(N, G * C, high=K)
        for table in tables(draw, G, C, K, M):
            yield codes, table
        yield arranged(codes, "transposed"), arranged(table.float(), "strided")


def scatter_add() -> Iterator[Case]:
    for N, _, G, C, K, M in ROWS:
        draw = Draw(N)
        codes = draw.bytes(N, G * C, high=K)
        for dtype in (torch.float32, torch.float64):
            yield codes, draw.values(N, G * M, dtype=dtype), G, K
        yield arranged(codes, "transposed"), arranged(draw.values(N, G * M), "strided"), G, K


def quantize() -> Iterator[Case]:
    for N, _, G, C, K, M in ROWS:
        lut = torch.randn(G, C, K, M, generator=torch.Generator().manual_seed(N))
        lut[:, :, :, 0] = 1.5  # nothing to tell apart
        for bits, scale, clip in ((8, "channel", 1.0), (8, "layer", 0.7), (2, "channel", 0.4)):
            yield lut, bits, scale, torch.tensor(clip)
        yield arranged(lut[0, 0], "transposed")[None, None], 4, "channel", torch.tensor(1.0)
        yield lut.double(), 8, "channel", torch.tensor(1.0)


def inputs(dtypes=DTYPES) -> Iterator[tuple[Draw, torch.Tensor, int, ConvGeometry | None, tuple]]:
    """draw, x, columns of a group, geometry and (G, C, K, M)."""
    for dtype in dtypes:
        for N, D, *shape in ROWS:
            draw = Draw(N)
            yield draw, draw.values(N, D * shape[0], dtype=dtype), D, None, tuple(shape)
        for geometry, sides in MAPS:
            for layout in ("contiguous", "channels_last", "strided", "transposed"):
                draw = Draw(sides[1])
                x = arranged(draw.values(3, 4, *sides, dtype=dtype), layout)
                columns = 4 * geometry.kernel_size[0] * geometry.kernel_size[1]
                yield draw, x, columns // 2, geometry, (2, 2, 8, 5)


def trees(dtypes=DTYPES) -> Iterator[tuple[Draw, Case, ConvGeometry | None, tuple]]:
    for draw, x, columns, geometry, (G, C, K, M) in inputs(dtypes):
        depth = K.bit_length() - 1
        taps = draw.bytes(G * C * depth, high=columns * G, dtype=torch.int64)
        yield draw, (x, taps, draw.values(G * C, K - 1)), geometry, (G, C, K, M)


def tree_encode() -> Iterator[Case]:
    for _, case, geometry, _ in trees():
        yield *case, geometry


def tree_gradient() -> Iterator[Case]:
    for draw, case, geometry, (G, C, K, M) in trees((torch.float32,)):
        N = _rows(case[0], geometry)
        lut, tau = draw.values(G, C, K, M), draw.values(G * C).abs() + 0.5
        for flips in (False, True):
            yield draw.values(N, G * M), *case, lut, tau, 0.75, geometry, flips


def nearest(dtypes=DTYPES) -> Iterator[tuple[Draw, Case, ConvGeometry | None, tuple]]:
    for draw, x, columns, geometry, (G, C, K, M) in inputs(dtypes):
        blocks = Blocks(columns, min(C, columns), G)
        inside = (blocks.columns() >= 0)[:, None]
        prototypes = draw.values(blocks.total, K, blocks.V) * inside
        for metric in ("l2", "l1", "chebyshev"):
            yield draw, (x, prototypes, metric, G), geometry, (G, blocks.C, K, M)


def nearest_encode() -> Iterator[Case]:
    for _, case, geometry, _ in nearest():
        yield *case, geometry


def nearest_gradient() -> Iterator[Case]:
    for draw, (x, prototypes, metric, _), geometry, (G, C, K, M) in nearest((torch.float32,)):
        lut, tau = draw.values(G, C, K, M), draw.values(G * C).abs() + 0.5
        grad = draw.values(_rows(x, geometry), G * M)
        yield grad, x, prototypes, lut, tau, metric, 0.75, geometry


def carry_gradient() -> Iterator[Case]:
    for draw, x, columns, geometry, (G, C, K, M) in inputs((torch.float32, torch.float64)):
        blocks, N = Blocks(columns, min(C, columns), G), _rows(x, geometry)
        inside = (blocks.columns() >= 0)[:, None]
        prototypes = draw.values(blocks.total, K, blocks.V, dtype=x.dtype) * inside
        codes = draw.bytes(N, blocks.total, high=K)
        weight = draw.values(G * M, columns, dtype=x.dtype)
        grad = draw.values(N, G * M, dtype=x.dtype)
        for method, prototypes_too in (("rotation", False), ("diveq", True), ("diveq", False)):
            yield grad, x, codes, prototypes, weight, method, prototypes_too, geometry


def conv_taps() -> Iterator[Case]:
    for draw, x, columns, geometry, (G, *_) in inputs(DTYPES[:3]):
        if geometry is not None:
            yield x, draw.bytes(11, high=columns * G, dtype=torch.int64), geometry


def conv_taps_gradient() -> Iterator[Case]:
    for x, taps, geometry in conv_taps():
        grad = Draw(1).values(_rows(x, geometry), 11, dtype=torch.float32)
        for channels_last in (False, True):
            yield grad, taps, tuple(x.shape), channels_last, geometry


def answers(draw: Draw, G: int, C: int, K: int, M: int) -> Iterator[Case]:
    """table, packed, scale, bias, low, dtype; packed is a stand-in, see `run` in the suite."""
    scale, bias = draw.values(G * M) / 64, draw.values(G * M)
    table = draw.values(G, C, K, M, dtype=torch.int8)
    for low, dtype in ((None, torch.float32), (0.0, torch.int8), (-0.5, torch.bfloat16)):
        yield table, EMPTY, scale, bias, low, dtype
    yield draw.values(G, C, K, M), EMPTY, scale, bias, 0.0, torch.float32


def sign_magnitude() -> Iterator[Case]:
    for N, D, G, _, _, M in ROWS:
        for low in (-128, -127):  # the lowest byte has a way of its own
            draw = Draw(N)
            x = draw.bytes(max(N, 1), G * D, low=low, high=128, dtype=torch.int8)
            weight = draw.bytes(G, M, D, low=-128, high=128, dtype=torch.int8)
            yield x, weight
            yield arranged(x, "transposed"), arranged(weight, "strided")
            yield torch.full_like(x, low), torch.full_like(weight, -128)


def mxint8_dequantize() -> Iterator[Case]:
    for shape in ((3, 64), (2, 3, 70), (5, 1), (7,), (130, 33), (1, 2, 2, 16)):
        draw = Draw(len(shape))
        codes = draw.bytes(*shape, low=-128, high=128, dtype=torch.int8)
        scales = draw.bytes(*shape[:-1], -(-shape[-1] // 32), high=255)  # NaN is not equal to NaN
        for dtype in DTYPES[:3]:
            yield codes, scales, dtype
            yield arranged(codes, "strided"), arranged(scales, "transposed"), dtype


def max_pool() -> Iterator[Case]:
    windows = [geometry for geometry, _ in MAPS] + [ConvGeometry((3, 3), (2, 2), (1, 1, 1, 1))]
    for geometry in windows:
        for channels, sides in ((1, (9, 7)), (5, (8, 21)), (33, (12, 35)), (64, (9, 8))):
            x = Draw(channels).values(2, channels, *sides, dtype=torch.uint8)
            for layout in ("contiguous", "channels_last", "strided"):
                for contiguous in (False, True):
                    yield arranged(x, layout), geometry, contiguous


def mean_pool() -> Iterator[Case]:
    for channels, sides in ((1, (9, 7)), (5, (1, 1)), (64, (7, 7)), (131, (12, 35))):
        x = Draw(channels).values(2, channels, *sides, dtype=torch.uint8)
        for layout in ("contiguous", "channels_last", "strided"):
            for scale, shift in ((1 / (sides[0] * sides[1]), 0.0), (0.011, 3.5), (1.0, -40.0)):
                yield arranged(x, layout), scale, shift


def tree_layer() -> Iterator[Case]:
    for draw, case, geometry, shape in trees():
        for answer in answers(draw, *shape) if case[0].shape[0] else ():
            yield *case, *answer, geometry


def code_layer() -> Iterator[Case]:
    for N, _, *shape in ROWS:
        draw = Draw(N)
        G, C, K, _ = shape
        for answer in answers(draw, *shape) if N else ():
            yield draw.bytes(N, G * C, high=K), *answer


def code_map() -> Iterator[Case]:
    for draw, x, _, geometry, shape in inputs():
        if geometry is None or x.shape[0] == 0:
            continue
        G, C, K, _ = shape
        codes = draw.bytes(_rows(x, geometry), G * C, high=K)
        for answer in answers(draw, *shape):
            yield codes, *answer, x, geometry


WORDS = [  # N, G, J, W, I, M, rows of bias
    (65, 1, 1, 1, 1, 17, 1),
    (12, 2, 3, 2, 2, 16, 4),
    (7, 1, 2, 9, 3, 33, 7),
    (1, 3, 8, 1, 8, 2, 1),
    (3, 1, 1, 70, 1, 130, 3),
]


def bit_product() -> Iterator[Case]:
    for N, G, J, W, I, M, P in WORDS:
        draw, there = Draw(N), torch.full((W,), -1)
        there[-1] = (1 << 60) - 1
        x = draw.bytes(N, G, J, W, low=-(2**63), high=2**63 - 1, dtype=torch.int64) & there
        w = draw.bytes(G, W, I, M, low=-(2**63), high=2**63 - 1, dtype=torch.int64)
        w = w & there[:, None, None]
        factors = (draw.values(G, I, M), draw.values(J), draw.values(P, G * M))
        yield x, w, *factors, 64 * W - 4
        yield arranged(x, "transposed"), arranged(w, "strided"), *factors, 64 * W - 4
        normal = [draw.values(*value.shape, kind="normal") for value in factors]
        yield x, w, *normal, 64 * W - 4


def bit_planes() -> Iterator[Case]:
    maps = [((65, 40), 2), ((33, 7), 1), ((2, 12, 5, 7), 2), ((2, 140, 3, 9), 2), ((1, 3, 9, 9), 3)]
    for size, groups in maps:
        for T, J in ((1, 1), (3, 2), (15, 4), (255, 8)):
            draw = Draw(T)
            x, thresholds = draw.values(*size, kind="special"), draw.values(T).sort().values
            table = draw.bytes(T + 1, high=2**J)
            for layout in ("contiguous", "channels_last", "strided", "transposed", "offset"):
                yield arranged(x, layout), thresholds, table, J, groups
            yield draw.values(*size), thresholds, table, J, groups


def nearest_layer() -> Iterator[Case]:
    for draw, case, geometry, shape in nearest():
        for answer in answers(draw, *shape) if case[0].shape[0] else ():
            yield *case, *answer, geometry


def _rows(x: torch.Tensor, geometry: ConvGeometry | None) -> int:
    if geometry is None:
        return x.shape[0]
    OH, OW = geometry.output_size(x.shape[2], x.shape[3])
    return x.shape[0] * OH * OW


def all_finite() -> Iterator[Case]:
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        for value in (torch.finfo(dtype).max, float("nan"), -float("inf")):
            x = torch.zeros(3, 2, 5, 7, dtype=dtype)
            x[2, 1, 4, 6] = value
            yield (x,)
            yield (x.contiguous(memory_format=torch.channels_last),)
            yield (x[..., ::2],)
    yield (torch.zeros(0, 4),)


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "all_finite": all_finite,
    "accumulate": accumulate,
    "scatter_add": scatter_add,
    "quantize": quantize,
    "tree_encode": tree_encode,
    "tree_gradient": tree_gradient,
    "nearest_encode": nearest_encode,
    "nearest_gradient": nearest_gradient,
    "carry_gradient": carry_gradient,
    "conv_taps": conv_taps,
    "conv_taps_gradient": conv_taps_gradient,
    "sign_magnitude": sign_magnitude,
    "mxint8_dequantize": mxint8_dequantize,
    "max_pool": max_pool,
    "mean_pool": mean_pool,
    "tree_layer": tree_layer,
    "nearest_layer": nearest_layer,
    "code_layer": code_layer,
    "code_map": code_map,
    "bit_planes": bit_planes,
    "bit_product": bit_product,
}

ROUNDED = ("tree_gradient", "nearest_gradient")
"""Operations whose answers are equal up to rounding only."""

PRIVATE = ("pack_table",)
"""Operations whose answer is an implementation's own; those that read it are compared."""
