"""accumulate and scatter_add under drawn shapes, layouts and values, on every level."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from halut.ops import accumulate, scatter_add
from tests.kernels.drawn import (
    CODEBOOKS,
    FLOATS,
    FUZZ,
    GROUPS,
    KINDS,
    LAYOUTS,
    OUTPUTS,
    PROTOTYPES,
    ROWS,
    SEEDS,
    Draw,
    arranged,
    assert_within,
    every_level,
)
from tests.oracles.lookup import accumulate_reference

SIZES = {"N": ROWS, "G": GROUPS, "C": CODEBOOKS, "K": PROTOTYPES, "M": OUTPUTS, "seed": SEEDS}
PLACES = {"layout": st.sampled_from(LAYOUTS), "other": st.sampled_from(LAYOUTS)}


def scatter_exactly(codes: Tensor, grad: Tensor, G: int, K: int) -> Tensor:
    """scatter_add in float64, row by row: no product with a zero that would make inf a NaN."""
    N, C, M = codes.shape[0], codes.shape[1] // G, grad.shape[1] // G
    out = torch.zeros(G, C, K, M, dtype=torch.float64)
    group, codebook = torch.arange(G).view(1, G, 1), torch.arange(C).view(1, 1, C)
    rows = grad.double().reshape(N, G, 1, M).expand(N, G, C, M)
    codes = codes.reshape(N, G, C).long()
    return out.index_put_((group, codebook, codes), rows, accumulate=True)


def rounding(dtype: torch.dtype, terms: int, magnitude: Tensor, exact: Tensor) -> Tensor:
    """Bound on the rounding of a sum in float32, and of its answer in dtype."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    bound = terms * torch.finfo(wide).eps * magnitude + torch.finfo(dtype).eps * exact.abs()
    return bound + tiny


@FUZZ
@given(**SIZES, **PLACES)
def test_int8_sums_are_exact(N, G, C, K, M, seed, layout, other):
    draw = Draw(seed)
    codes = arranged(draw.bytes(N, G * C, high=K), layout)
    table = arranged(draw.values(G, C, K, M, dtype=torch.int8), other)
    expected = accumulate_reference(codes.contiguous(), table)
    for level in every_level():
        y = accumulate(codes, table)
        assert y.dtype == torch.int32
        assert torch.equal(y, expected), level


@FUZZ
@given(**SIZES, **PLACES, dtype=st.sampled_from(FLOATS), kind=st.sampled_from(KINDS))
def test_float_sums_are_exact_up_to_rounding(N, G, C, K, M, seed, layout, other, dtype, kind):
    draw = Draw(seed)
    codes = arranged(draw.bytes(N, G * C, high=K), layout)
    table = arranged(draw.values(G, C, K, M, dtype=dtype, kind=kind), other)
    exact = accumulate_reference(codes.contiguous(), table.double())
    magnitude = accumulate_reference(codes.contiguous(), table.double().abs())
    for level in every_level():
        y = accumulate(codes, table)
        assert y.dtype == dtype
        assert_within(y, exact.to(dtype).double(), rounding(dtype, C, magnitude, exact), level)


@FUZZ
@given(**SIZES, **PLACES, dtype=st.sampled_from(FLOATS), kind=st.sampled_from(KINDS))
def test_scattered_sums_are_exact_up_to_rounding(N, G, C, K, M, seed, layout, other, dtype, kind):
    draw = Draw(seed)
    codes = arranged(draw.bytes(N, G * C, high=K), layout)
    grad = arranged(draw.values(N, G * M, dtype=dtype, kind=kind), other)
    exact = scatter_exactly(codes, grad, G, K)
    magnitude = scatter_exactly(codes, grad.abs(), G, K)
    for level in every_level():
        y = scatter_add(codes, grad, G, K)
        assert y.shape == (G, C, K, M)
        assert y.dtype == dtype
        assert_within(y, exact.to(dtype).double(), rounding(dtype, N, magnitude, exact), level)
