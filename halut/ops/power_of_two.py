"""Power-of-two normalization: values are brought to order one before they are squared.

Squares of float32 overflow above 1.8e19 and vanish below 1e-23. Division by a power of two rounds
nothing, so that data of any size learn what the same data of order one do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SAFE_RANGE = 2.0**-16, 2.0**16
"""Sizes that need no unit: their squares, and sums of many of them, are far from both ends."""


def unit_of(largest: float) -> float:
    """The unit for values of magnitudes up to `largest`: 1 for ordinary ones, and for zeros."""
    if largest == 0 or SAFE_RANGE[0] <= largest <= SAFE_RANGE[1] or not math.isfinite(largest):
        return 1.0
    return 2.0 ** max(-126, min(126, math.frexp(largest)[1]))


def normalized_mse(y: Tensor, exact: Tensor) -> Tensor:
    """||y - exact||^2 / ||exact||^2, 0 for a perfect answer and 1 for answering zero.

    Differentiable; of values of any size, as both are taken in units of the largest exact one.
    """
    exact = exact.to(y.dtype)
    y, exact = in_units_of(exact, y, exact)
    return (y - exact).square().sum() / exact.square().sum().clamp_min(1e-30)


def commitment_mse(y: Tensor, exact: Tensor) -> Tensor:
    """normalized_mse(y, exact) whose gradient is that of `exact` in the difference alone.

    sum((sg(y) - exact)^2) / sum(sg(exact)^2): the power is a constant, or growing would lessen it.
    """
    exact = exact.to(y.dtype)
    y, exact = in_units_of(exact, y.detach(), exact)
    return (y - exact).square().sum() / exact.detach().square().sum().clamp_min(1e-30)


def in_units_of(reference: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """The values over the power of two next above the largest magnitude of the reference."""
    if not reference.numel():
        return values
    _, exponent = torch.frexp(reference.detach().abs().amax().float())
    one = torch.ones_like(exponent, dtype=reference.dtype)
    unit = torch.ldexp(one, exponent.clamp(-125, 127))
    return tuple(value / unit for value in values)
