"""Bit-plane description of a codec, for products of packed bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Planes:
    """value = sum_j factors[r, j] b_j, b_j by bit j of a code +1 or -1 (`signed`), or 1 or 0.

    factors [R, n], one row for every output (R of them) or for all values (R = 1).
    """

    factors: Tensor
    signed: bool

    def about_zero(self) -> tuple[Tensor, Tensor]:
        """(factors [R, n], offset [R]) of the same values with signs: c b = c / 2 (+-1) + c / 2."""
        if self.signed:
            return self.factors, torch.zeros_like(self.factors[:, 0])
        return self.factors / 2, self.factors.sum(1) / 2


@dataclass(frozen=True)
class Steps:
    """Codes as steps: code = table[number of t with x >= thresholds[t]].

    thresholds [T] float32, ascending; table [T + 1] uint8.
    """

    thresholds: Tensor
    table: Tensor


def every_code(n: int, device: torch.device) -> Steps:
    """The steps that take codes of n bits, as floats, to themselves."""
    codes = torch.arange(2**n, device=device)
    return Steps(codes[1:].float(), codes.to(torch.uint8))


def just_above(t: Tensor) -> Tensor:
    """The least float32 above t: x > t as x >= just_above(t)."""
    return torch.nextafter(t, torch.full_like(t, torch.inf))
