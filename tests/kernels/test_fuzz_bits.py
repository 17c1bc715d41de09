"""Bit planes and their products under drawn shapes, layouts and values, on every level."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from halut.ops import bit_planes, bit_product, forced
from tests.kernels.drawn import FUZZ, GROUPS, KINDS, LAYOUTS, SEEDS, Draw, arranged, every_level
from tests.oracles.integer import bit_planes_reference, bit_product_reference

SMALL = st.integers(1, 4)


@FUZZ
@given(
    N=st.sampled_from([0, 1, 3, 4, 17, 66]), G=GROUPS, J=SMALL, I=SMALL,
    D=st.sampled_from([1, 3, 63, 64, 65, 130, 577]),
    M=st.sampled_from([1, 3, 8, 15, 16, 17, 33]), seed=SEEDS,
    layout=st.sampled_from(LAYOUTS), by_position=st.booleans(),
)  # fmt: skip
def test_products_are_the_same_bits(N, G, J, I, D, M, seed, layout, by_position):
    draw, W = Draw(seed), -(-D // 64)
    there = torch.full((W,), -1)
    there[-1] = -1 if D % 64 == 0 else (1 << D % 64) - 1
    x = draw.bytes(N, G, J, W, low=-(2**63), high=2**63 - 1, dtype=torch.int64) & there
    w = draw.bytes(G, W, I, M, low=-(2**63), high=2**63 - 1, dtype=torch.int64)
    x, w = arranged(x, layout), arranged(w & there[:, None, None], layout)
    kind = KINDS[seed % 2]
    alpha, beta = draw.values(G, I, M, kind=kind), draw.values(J, kind=kind)
    bias = draw.values(max(N, 1) if by_position else 1, G * M, kind=kind)
    expected = bit_product_reference(x, w, alpha, beta, bias, D) if N else torch.zeros(0, G * M)
    for level in every_level():
        assert torch.equal(bit_product(x, w, alpha, beta, bias, D), expected), level
    with forced("torch"):
        assert torch.equal(bit_product(x, w, alpha, beta, bias, D), expected)


@FUZZ
@given(
    N=st.integers(1, 3), G=GROUPS, C=st.sampled_from([1, 3, 8, 9, 33]),
    sides=st.sampled_from([None, (1, 1), (3, 5), (9, 8)]), T=st.sampled_from([0, 1, 3, 7]),
    J=SMALL, seed=SEEDS, layout=st.sampled_from(LAYOUTS), kind=st.sampled_from(KINDS),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.float64]),
)  # fmt: skip
def test_planes_are_the_codes_bits(N, G, C, sides, T, J, seed, layout, kind, dtype):
    draw = Draw(seed)
    x = arranged(draw.values(N, G * C, *(sides or ()), dtype=dtype, kind=kind), layout)
    thresholds, table = draw.values(T).sort().values, draw.bytes(T + 1, high=2**J)
    expected = bit_planes_reference(x, thresholds, table, J, G)
    for level in every_level():
        assert torch.equal(bit_planes(x, thresholds, table, J, G), expected), level
    with forced("torch"):
        assert torch.equal(bit_planes(x, thresholds, table, J, G), expected)
