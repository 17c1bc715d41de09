"""Requantization of integer sums to bytes: a multiply-add, a shift and a clamp.

    y[n, m] = clamp(floor((multiplier[m] sums[n, m] + residual r[n, m] + bias[m]) / 2^shift),
                    low, 255)

multiplier has 16 bits, residual and bias have 32, all signed; r are the bytes of a residual branch
as they are, if there is one. The bias holds the zero points and 2^(shift - 1): halves are rounded
up, towards positive infinity. The term in brackets needs 48 bits at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halut.errors import HalutError

MULTIPLIER = (1 << 15) - 1
"""The largest multiplier of sums."""
BIAS = 1 << 30
"""The largest residual multiplier, and bias before rounding joins it."""
MAX_SHIFT = 30


@dataclass(frozen=True)
class Requantization:
    """The integers of the formula: multiplier and bias int64 [M]."""

    multiplier: Tensor
    bias: Tensor
    shift: int
    low: int = 0
    residual: int = 0

    def __call__(self, sums: Tensor, residual: Tensor | None = None) -> Tensor:
        """sums [N, M] of integers, residual uint8 [N, M] or None -> uint8 [N, M]."""
        total = sums.long() * self.multiplier + self.bias
        if residual is not None:
            total += residual.long() * self.residual
        return (total >> self.shift).clamp_(self.low, 255).to(torch.uint8)

    @classmethod
    def of(
        cls,
        scale: Tensor,
        offset: Tensor,
        low: int = 0,
        residual: tuple[float, int] | None = None,
    ) -> Requantization:
        """The nearest to y = scale sums + residual scale (r - residual zero point) + offset.

        scale and offset [M] are in steps of the answer, the zero point of which is part of offset;
        residual: (scale, zero point). The shift is the largest with which all numbers fit. Raises
        HalutError if there is none, or a number is not finite.
        """
        branch, zero_point = residual or (0.0, 0)
        scale, offset = scale.detach().double(), offset.detach().double() - branch * zero_point
        factor, reach = float(scale.abs().max()), float(offset.abs().max())
        shifts = [
            shift
            for shift in range(MAX_SHIFT + 1)
            if factor * 2**shift <= MULTIPLIER and max(reach, abs(branch)) * 2**shift <= BIAS
        ]
        if not shifts:
            raise HalutError(
                f"no shift of 0..{MAX_SHIFT} holds a step of {factor:.3g} and an offset of "
                f"{reach:.3g} steps of the answer"
            )
        shift = shifts[-1]
        own = round(branch * 2**shift)
        # The zero point's share is that of the rounded multiplier.
        bias = torch.round((offset + branch * zero_point) * 2**shift).long() - own * zero_point
        multiplier = torch.round(scale * 2**shift).long()
        return cls(multiplier, bias + (1 << shift >> 1), shift, low, own)
