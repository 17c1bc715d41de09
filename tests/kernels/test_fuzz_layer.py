"""Whole layers at inference under drawn shapes, windows, layouts and values, on every level."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halut.errors import HalutError
from halut.ops import code_layer, nearest_layer, pack_table, tree_layer
from halut.ops.blocks import Blocks
from halut.ops.epilogue import output_size_of
from tests.kernels.drawn import (
    FUZZ,
    GEOMETRIES,
    INPUTS,
    KINDS,
    LAYOUTS,
    SEEDS,
    SIDES,
    Draw,
    arranged,
    every_level,
)
from tests.oracles.layer import (
    code_layer_reference,
    nearest_layer_reference,
    tree_layer_reference,
)

EMPTY = torch.empty(0, dtype=torch.uint8)
LAYER_INPUTS = (*INPUTS, torch.uint8)
SHAPE = {
    "N": st.sampled_from([0, 1, 2, 3, 17, 64, 65, 130]),
    "D": st.sampled_from([1, 2, 3, 8, 16, 33]),
    "sides": SIDES,
    "G": st.sampled_from([1, 1, 1, 2, 3]),
    "C": st.sampled_from([1, 2, 3, 4, 5, 8, 17]),
    "K": st.sampled_from([2, 4, 8, 16, 16, 16, 32, 256]),
    "M": st.sampled_from([1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 64, 65]),
    "window": GEOMETRIES,
    "layout": st.sampled_from(LAYOUTS),
    "dtype": st.sampled_from(LAYER_INPUTS),
    "answer": st.sampled_from(LAYER_INPUTS),
    "added": st.sampled_from([None, None, *LAYER_INPUTS]),
    "low": st.sampled_from([None, 0.0, -1.5]),
    "seed": SEEDS,
}


def draw_answer(draw, G, C, K, M):
    """table, scale and bias."""
    table = draw.values(G, C, K, M, dtype=torch.int8)
    return table, draw.values(G * M, kind="normal") / 64, draw.values(G * M, kind="normal")


def check(run, x, expected, table, level):
    """The answer with a packed table and without; a map in the layout its input has.

    expected None: integers would have to be NaN.
    """
    for packed in (pack_table(table), EMPTY):
        if expected is None:
            with pytest.raises(HalutError, match="NaN or infinite"):
                run(packed)
            continue
        y = run(packed)
        assert y.dtype == expected.dtype
        same = torch.equal(y.nan_to_num(), expected.nan_to_num())
        assert same, level
        assert torch.equal(y.isnan(), expected.isnan()), level


@FUZZ
@given(**SHAPE, kind=st.sampled_from(KINDS))
def test_tree_layers_answer_bit_for_bit(
    N, D, sides, G, C, K, M, window, layout, dtype, answer, added, low, seed, kind
):
    draw = Draw(seed)
    x, columns = draw.inputs(N, D * G, window, sides, dtype, kind, layout)
    depth = K.bit_length() - 1
    taps = draw.bytes(G * C * depth, high=columns, dtype=torch.int64)
    thresholds = draw.values(G * C, K - 1, kind=kind)
    table, scale, bias = draw_answer(draw, G, C, K, M)
    rest = (low, answer, window, *residual(draw, added, x, G * M, window, layout))
    expected = reference(tree_layer_reference, x, (taps, thresholds, table, scale, bias), rest)

    def run(packed):
        return tree_layer(x, taps, thresholds, table, packed, scale, bias, *rest)

    for level in every_level():
        check(run, x, expected, table, level)


@FUZZ
@given(**{**SHAPE, "K": st.sampled_from([2, 4, 8, 16])})  # distances are exact, as are ties
def test_nearest_layers_answer_bit_for_bit(
    N, D, sides, G, C, K, M, window, layout, dtype, answer, added, low, seed
):
    draw = Draw(seed)
    x, columns = draw.inputs(N, D * G, window, sides, dtype, "dyadic", layout)
    columns //= G
    C = min(C, columns)
    blocks = Blocks(columns, C, G)
    prototypes = draw.values(G * C, K, blocks.V) * (blocks.columns() >= 0)[:, None]
    table, scale, bias = draw_answer(draw, G, C, K, M)
    rest = (low, answer, window, *residual(draw, added, x, G * M, window, layout))
    inner = (prototypes, "l2", G, table, scale, bias)
    expected = reference(nearest_layer_reference, x, inner, rest)

    def run(packed):
        return nearest_layer(x, prototypes, "l2", G, table, packed, scale, bias, *rest)

    for level in every_level():
        check(run, x, expected, table, level)


@FUZZ
@given(
    **{
        name: drawn
        for name, drawn in SHAPE.items()
        if name not in ("D", "sides", "window", "dtype", "added")
    }
)
def test_known_codes_answer_bit_for_bit(N, G, C, K, M, layout, answer, low, seed):
    draw = Draw(seed)
    codes = arranged(draw.bytes(N, G * C, high=K), layout)
    table, scale, bias = draw_answer(draw, G, C, K, M)
    expected = code_layer_reference(codes.contiguous(), table, scale, bias, low, answer)

    def run(packed):
        return code_layer(codes, table, packed, scale, bias, low, answer)

    for level in every_level():
        check(run, codes, expected, table, level)


def residual(draw, dtype, x, outputs, window, layout):
    """What is added to the answer, and by what factor."""
    if dtype is None:
        return None, 1.0
    size, _ = output_size_of(x, outputs, window)
    return arranged(draw.values(*size, dtype=dtype), layout), 0.75


def reference(oracle, x, inner, rest):
    """The oracle's answer, also where x has no images; None if integers would have to be NaN."""
    if x.shape[0]:
        floats = oracle(x.contiguous(), *inner, *(None, torch.float32, rest[2], None, 1.0))
        if bool(floats.isnan().any()) and not rest[1].is_floating_point:
            return None
        return oracle(x.contiguous(), *inner, *rest)
    *rest, added, factor = rest
    if added is not None:
        added = added.new_zeros(1, *added.shape[1:])
    one = oracle(x.new_zeros(1, *x.shape[1:]), *inner, *rest, added, factor)
    return one[:0]
