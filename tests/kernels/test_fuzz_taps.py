"""Taps of activation maps, and their gradient, under drawn windows and layouts, on every level."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halut.errors import HalutError
from halut.ops import conv_taps, im2col
from tests.kernels.drawn import (
    FLOATS,
    FUZZ,
    LAYOUTS,
    SEEDS,
    SIDES,
    WINDOWS,
    Draw,
    arranged,
    every_level,
)


@FUZZ
@given(
    B=st.sampled_from([0, 1, 2, 5]),
    Cin=st.sampled_from([1, 2, 3, 8, 17]),
    sides=SIDES,
    T=st.sampled_from([1, 2, 7, 16, 40]),
    window=WINDOWS,
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(FLOATS),
    seed=SEEDS,
)
def test_taps_and_their_gradient(B, Cin, sides, T, window, layout, dtype, seed):
    draw = Draw(seed)
    x = arranged(draw.values(B, Cin, *sides, dtype=dtype), layout)
    g = window
    columns = Cin * g.kernel_size[0] * g.kernel_size[1]
    taps = draw.bytes(T, high=columns, dtype=torch.int64)
    arguments = (g.kernel_size, g.stride, g.padding, g.dilation)
    if min(g.output_size(*sides)) < 1:
        with pytest.raises(HalutError, match="smaller than"):
            conv_taps(x, taps, *arguments)
        return
    wide = x.double().clone().requires_grad_()
    expected = im2col(wide, *arguments)[:, taps] if B else wide.new_zeros(0, T)
    grad = draw.values(*expected.shape, dtype=dtype)
    if B:
        expected.backward(grad.double())
    for level in every_level():
        leaf = x.detach().requires_grad_()
        y = conv_taps(leaf, taps, *arguments)
        assert y.dtype == dtype
        assert torch.equal(y.double(), expected), level
        y.backward(grad)
        assert leaf.grad is not None
        if B and dtype != torch.bfloat16:  # sums of quarters: exact in all but 8 bits
            assert torch.equal(leaf.grad.double(), wide.grad), level
