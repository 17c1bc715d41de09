"""Requantization against rational numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from halut.errors import HalutError
from halut.export.packed.requantization import BIAS, MULTIPLIER, Requantization


def test_the_formula_is_that_of_rational_numbers():
    torch.manual_seed(0)
    sums = torch.randint(-(2**20), 2**20, (50, 3))
    residual = torch.randint(256, (50, 3), dtype=torch.uint8)
    scale, offset = torch.tensor([1e-4, -3e-4, 0.0]), torch.tensor([3.5, 130.0, 77.0])
    r = Requantization.of(scale, offset, low=9, residual=(0.37, 12))
    for n in range(50):
        for m in range(3):
            term = int(sums[n, m]) * int(r.multiplier[m]) + int(residual[n, m]) * r.residual
            exact = math.floor(Fraction(term + int(r.bias[m]), 2**r.shift))
            assert int(r(sums, residual)[n, m]) == min(max(exact, 9), 255)


@pytest.mark.parametrize("residual", [None, (0.9, 140)])
def test_answers_are_at_most_a_rounding_from_the_real_number(residual):
    torch.manual_seed(0)
    sums = torch.randint(-4000, 4000, (400, 8))
    scale, offset = torch.rand(8) * 0.05, 128 + 20 * torch.randn(8)
    r = Requantization.of(scale, offset, residual=residual)
    branch = torch.randint(256, sums.shape, dtype=torch.uint8)
    real = sums.double() * scale.double() + offset.double()
    if residual is not None:
        real += residual[0] * (branch.double() - residual[1])
    ours = r(sums, None if residual is None else branch)
    assert float((ours - real.clamp(0, 255)).abs().max()) < 0.5 + 0.05


def test_halves_are_rounded_up():
    r = Requantization.of(torch.tensor([0.5]), torch.tensor([10.0]))
    assert r(torch.tensor([[1], [-1], [3]])).flatten().tolist() == [11, 10, 12]


def test_numbers_fit_their_widths():
    for scale in (1e-6, 1e-3, 1.0, 3e4):
        for offset in (0.0, -300.0, 1e6):
            r = Requantization.of(torch.tensor([scale]), torch.tensor([offset]), 0, (1.0, 255))
            assert int(r.multiplier.abs().max()) <= MULTIPLIER
            assert int(r.bias.abs().max()) < 2**31
            assert abs(r.residual) <= BIAS


def test_what_no_shift_holds_is_refused():
    with pytest.raises(HalutError, match=r"no shift of 0\.\.30 holds a step of 1e\+05"):
        Requantization.of(torch.tensor([1e5]), torch.tensor([0.0]))
    with pytest.raises(HalutError, match="no shift"):
        Requantization.of(torch.tensor([float("nan")]), torch.tensor([0.0]))
