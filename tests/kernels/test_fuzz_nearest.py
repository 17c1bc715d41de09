"""Nearest prototypes under drawn shapes, windows, layouts and values, on every level."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from halut.ops import accumulate, nearest_encode, nearest_matmul
from halut.ops.blocks import Blocks
from tests.kernels.drawn import (
    CODEBOOKS,
    FLOATS,
    FUZZ,
    GEOMETRIES,
    GROUPS,
    LAYOUTS,
    OUTPUTS,
    PROTOTYPES,
    ROWS,
    SEEDS,
    SIDES,
    Draw,
    arranged,
    assert_near,
    every_level,
    rows_of,
)
from tests.oracles.nearest import (
    nearest_assign_reference,
    nearest_encode_reference,
    nearest_matmul_reference,
)

PLACES = {"layout": st.sampled_from(LAYOUTS), "other": st.sampled_from(LAYOUTS)}
WIDTHS = st.sampled_from([1, 2, 3, 4, 8, 9, 16, 17])
METRICS = st.sampled_from(["l2", "l2", "l1", "chebyshev"])


INPUTS = {
    "N": ROWS,
    "D": st.sampled_from([1, 2, 3, 8, 17, 40]),
    "geometry": GEOMETRIES,
    "sides": SIDES,
    "G": GROUPS,
    "C": CODEBOOKS,
    "metric": METRICS,
    "seed": SEEDS,
    **PLACES,
}


def drawn(draw, N, D, geometry, sides, G, C, K, layout, other, dtype, kind):
    """x, its rows in float64, and prototypes of at most C codebooks a group."""
    x, columns = draw.inputs(N, D * G, geometry, sides, dtype, kind, layout)
    blocks = Blocks(columns // G, min(C, columns // G), G)
    inside = (blocks.columns() >= 0)[:, None]
    floating = torch.float32 if dtype == torch.int8 else dtype
    prototypes = draw.values(blocks.total, K, blocks.V, dtype=floating, kind=kind)
    if dtype == torch.int8:
        prototypes *= 16
    return x, rows_of(x, geometry), arranged(prototypes, other) * inside


@FUZZ
@given(
    **INPUTS,
    K=PROTOTYPES,
    dtype=st.sampled_from([*FLOATS, torch.int8]),
    kind=st.sampled_from(["dyadic", "normal"]),
)
def test_codes_are_nearest(
    N, D, geometry, sides, G, C, K, metric, seed, layout, other, dtype, kind
):
    draw = Draw(seed)
    x, rows, prototypes = drawn(draw, N, D, geometry, sides, G, C, K, layout, other, dtype, kind)
    wide, one = prototypes.double(), torch.ones((), dtype=torch.float64)
    distance = nearest_assign_reference(rows, wide, one, metric, G)[0]
    size = distance.max() if N else one
    slack = 1e-12 if dtype == torch.float64 else 1e-5
    for level in every_level():
        codes = nearest_encode(x, prototypes, metric, G, geometry)
        smallest = distance.gather(-1, codes.long()[..., None])[..., 0]
        assert bool((smallest <= distance.amin(-1) + slack * size).all()), level
        if kind == "dyadic" and K in (2, 4, 8, 16):  # distances are exact, ties take the lowest
            expected = nearest_encode_reference(rows, wide, metric, G)
            assert torch.equal(codes, expected), level


@FUZZ
@given(
    **INPUTS,
    K=st.sampled_from([2, 4, 8, 16]),
    M=OUTPUTS,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    scalar=st.booleans(),
    ste_mix=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_training_step_is_the_oracles(
    N, D, geometry, sides, G, C, K, M, metric, seed, layout, other, dtype, scalar, ste_mix
):
    draw = Draw(seed)
    x, _, prototypes = drawn(draw, N, D, geometry, sides, G, C, K, layout, other, dtype, "dyadic")
    C, V = prototypes.shape[0] // G, prototypes.shape[2]
    inside = (Blocks(rows_of(x, geometry).shape[1] // G, C, G).columns() >= 0)[:, None]
    if metric == "chebyshev":  # no ties, where the slope is one of many
        x = x + draw.values(*x.shape, dtype=dtype, kind="normal") / 64
        prototypes = (
            prototypes + draw.values(*prototypes.shape, dtype=dtype, kind="normal") / 64
        ) * inside
    lut = arranged(draw.values(G, C, K, M, dtype=dtype, kind="normal"), other)
    table = draw.values(G, C, K, M, dtype=dtype)
    tau = draw.values(*(() if scalar else (G * C,)), dtype=dtype).abs() + 0.5
    leaves = [value.detach().double().requires_grad_() for value in (x, prototypes, lut, tau)]
    exact = nearest_matmul_reference(
        rows_of(leaves[0], geometry), *leaves[1:3], table.double(), leaves[3], metric, G, ste_mix
    )
    grad = draw.values(*exact.shape, dtype=dtype, kind="normal")
    reference = list(torch.autograd.grad(exact, leaves, grad.double(), allow_unused=True))
    if reference[1] is not None:  # the padding of narrow blocks is no parameter
        reference[1] = reference[1] * inside
    codes = nearest_encode(x, prototypes, metric, G, geometry)
    for level in every_level():
        mine = [value.detach().requires_grad_() for value in (x, prototypes, lut, tau)]
        y = nearest_matmul(*mine[:3], table, mine[3], metric, G, ste_mix, geometry)
        assert torch.equal(y, accumulate(codes, table)), level
        actual = torch.autograd.grad(y, mine, grad, allow_unused=True)
        for name, value, expected in zip(["x", "p", "lut", "tau"], actual, reference, strict=True):
            # tau's is a sum over all rows and codebooks of terms that cancel.
            spread = V * (20 if name == "tau" else 1)
            assert_near(value, expected, dtype, (level, name), spread)


@FUZZ
@given(N=ROWS, C=CODEBOOKS, K=PROTOTYPES, V=WIDTHS, metric=METRICS, seed=SEEDS)
def test_rows_with_nan_get_the_last_code_and_affect_no_other_row(N, C, K, V, metric, seed):
    draw = Draw(seed)
    x, prototypes = draw.values(N, C * V), draw.values(C, K, V)
    broken = draw.bytes(N, high=3) == 0
    column = draw.bytes(N, high=C * V, dtype=torch.int64)
    spoilt = x.clone()
    spoilt[broken, column[broken]] = float("nan")
    hit = torch.zeros(N, C, dtype=torch.bool)
    hit[broken, column[broken] // V] = True
    for level in every_level():
        codes = nearest_encode(spoilt, prototypes, metric)
        expected = nearest_encode(x, prototypes, metric)
        assert bool((codes[hit] == K - 1).all()), level
        assert torch.equal(codes[~hit], expected[~hit]), level


@FUZZ
@given(N=ROWS, C=CODEBOOKS, K=PROTOTYPES, V=WIDTHS, metric=METRICS, seed=SEEDS)
def test_any_values_give_codes_below_k(N, C, K, V, metric, seed):
    draw = Draw(seed)
    x = draw.values(N, C * V, kind="extreme")
    prototypes = draw.values(C, K, V, kind="finite")
    for level in every_level():
        codes = nearest_encode(x, prototypes, metric)
        assert codes.shape == (N, C)
        assert not N or int(codes.max()) < K, level
