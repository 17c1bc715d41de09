"""Hash trees under drawn shapes, windows, layouts and values, on every level."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from halut.ops import accumulate, tree_encode, tree_matmul
from tests.kernels.drawn import (
    CODEBOOKS,
    FLOATS,
    FUZZ,
    GEOMETRIES,
    GROUPS,
    KINDS,
    LAYOUTS,
    LEAVES,
    OUTPUTS,
    ROWS,
    SEEDS,
    SIDES,
    Draw,
    arranged,
    assert_near,
    every_level,
    rows_of,
)
from tests.oracles.tree import tree_encode_reference, tree_matmul_reference

INPUTS = {
    "N": ROWS,
    "D": st.sampled_from([1, 2, 3, 8, 17, 40]),
    "geometry": GEOMETRIES,
    "sides": SIDES,
    "layout": st.sampled_from(LAYOUTS),
    "other": st.sampled_from(LAYOUTS),
    "seed": SEEDS,
}


@FUZZ
@given(
    **INPUTS,
    GC=CODEBOOKS,
    K=LEAVES,
    dtype=st.sampled_from([*FLOATS, torch.int8]),
    kind=st.sampled_from(KINDS),
)
def test_codes_are_those_of_the_walk(
    N, D, geometry, sides, layout, other, seed, GC, K, dtype, kind
):
    draw = Draw(seed)
    x, columns = draw.inputs(N, D, geometry, sides, dtype, kind, layout)
    taps = draw.bytes(GC * (K.bit_length() - 1), high=columns, dtype=torch.int64)
    thresholds = arranged(draw.values(GC, K - 1, kind=kind), other)
    expected = tree_encode_reference(rows_of(x, geometry)[:, taps], thresholds)
    for level in every_level():
        assert torch.equal(tree_encode(x, taps, thresholds, geometry), expected), level


@FUZZ
@given(
    **INPUTS,
    G=GROUPS,
    C=st.sampled_from([1, 2, 5, 8, 9]),
    K=st.sampled_from([2, 4, 8, 16, 32]),
    M=OUTPUTS,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    scalar=st.booleans(),
    ste_mix=st.sampled_from([0.0, 0.5, 1.0]),
    flips=st.booleans(),
)
def test_training_step_is_the_oracles(
    N, D, geometry, sides, layout, other, seed, G, C, K, M, dtype, scalar, ste_mix, flips
):
    draw = Draw(seed)
    x, columns = draw.inputs(N, D, geometry, sides, dtype, "dyadic", layout)
    taps = draw.bytes(G * C * (K.bit_length() - 1), high=columns, dtype=torch.int64)
    thresholds = arranged(draw.values(G * C, K - 1, dtype=dtype), other)
    lut = arranged(draw.values(G, C, K, M, dtype=dtype, kind="normal"), other)
    table = draw.values(G, C, K, M, dtype=dtype)
    tau = draw.values(*(() if scalar else (G * C,)), dtype=dtype).abs() + 0.5
    leaves = [value.detach().double().requires_grad_() for value in (x, thresholds, lut, tau)]
    wide = rows_of(leaves[0], geometry)[:, taps]
    inputs = (wide, leaves[1], leaves[2], table.double(), leaves[3])
    exact = tree_matmul_reference(*inputs, ste_mix, flips)
    grad = draw.values(*exact.shape, dtype=dtype, kind="normal")
    reference = torch.autograd.grad(exact, leaves, grad.double(), allow_unused=True)
    codes = tree_encode(x, taps, thresholds, geometry)
    for level in every_level():
        mine = [value.detach().requires_grad_() for value in (x, thresholds, lut, tau)]
        inputs = (mine[0], taps, mine[1], mine[2], table, mine[3])
        y = tree_matmul(*inputs, ste_mix, geometry, flips)
        assert torch.equal(y, accumulate(codes, table)), level
        actual = torch.autograd.grad(y, mine, grad, allow_unused=True)
        for name, value, expected in zip(["x", "t", "lut", "tau"], actual, reference, strict=True):
            assert_near(value, expected, dtype, (level, name))
