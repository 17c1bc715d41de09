"""Codes of nearest prototypes under drawn shapes, layouts and values, on every level."""

from __future__ import annotations

import torch
from drawn import (
    CODEBOOKS,
    FLOATS,
    FUZZ,
    GROUPS,
    LAYOUTS,
    PROTOTYPES,
    ROWS,
    SEEDS,
    Draw,
    arranged,
    every_level,
)
from hypothesis import given
from hypothesis import strategies as st

from halut.blocks import Blocks
from halut.ops import nearest_encode
from halut.ops.nearest_reference import nearest_assign_reference, nearest_encode_reference

PLACES = {"layout": st.sampled_from(LAYOUTS), "other": st.sampled_from(LAYOUTS)}
WIDTHS = st.sampled_from([1, 2, 3, 4, 8, 9, 16, 17])
METRICS = st.sampled_from(["l2", "l2", "l1", "chebyshev"])


@FUZZ
@given(
    N=ROWS,
    G=GROUPS,
    C=CODEBOOKS,
    K=PROTOTYPES,
    V=WIDTHS,
    narrow=st.booleans(),
    metric=METRICS,
    seed=SEEDS,
    **PLACES,
    dtype=st.sampled_from(FLOATS),
    kind=st.sampled_from(["dyadic", "normal"]),
)
def test_nearest_codes_are_nearest(N, G, C, K, V, narrow, metric, seed, layout, other, dtype, kind):
    draw = Draw(seed)
    D = C * V - (C - 1 if narrow and V > 1 else 0)  # narrow: blocks of V - 1 follow one of V
    inside = (Blocks(D, C, G).columns() >= 0)[:, None]
    x = arranged(draw.values(N, G * D, dtype=dtype, kind=kind), layout)
    prototypes = arranged(draw.values(G * C, K, V, dtype=dtype, kind=kind) * inside, other)
    if other == "expanded":
        prototypes = prototypes * inside
    wide, one = prototypes.double(), torch.ones((), dtype=torch.float64)
    distance = nearest_assign_reference(x.double(), wide, one, metric, G)[0]
    size = distance.max() if N else one
    slack = 1e-12 if dtype == torch.float64 else 1e-5
    for level in every_level():
        codes = nearest_encode(x, prototypes, metric, G)
        chosen = distance.gather(-1, codes.long()[..., None])[..., 0]
        assert bool((chosen <= distance.amin(-1) + slack * size).all()), level
        if kind == "dyadic" and K in (2, 4, 8, 16):  # distances are exact, ties take the lowest
            expected = nearest_encode_reference(x.double(), wide, metric, G)
            assert torch.equal(codes, expected), level


@FUZZ
@given(N=ROWS, C=CODEBOOKS, K=PROTOTYPES, V=WIDTHS, metric=METRICS, seed=SEEDS)
def test_rows_with_nan_get_the_last_code_and_spoil_no_other_row(N, C, K, V, metric, seed):
    draw = Draw(seed)
    x, prototypes = draw.values(N, C * V), draw.values(C, K, V)
    broken = draw.bytes(N, high=3) == 0
    column = draw.bytes(N, high=C * V, dtype=torch.int64)
    spoilt = x.clone()
    spoilt[broken, column[broken]] = float("nan")
    hit = torch.zeros(N, C, dtype=torch.bool)
    hit[broken, column[broken] // V] = True
    for level in every_level():
        codes, expected = nearest_encode(spoilt, prototypes, metric), None
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
