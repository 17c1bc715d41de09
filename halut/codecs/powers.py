"""Exact powers of two by the bits of float32, as libraries' exp2 and log2 may round."""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST, HIGHEST = -127, 127
"""Exponents a shared scale can have: eight bits hold them."""

_SQRT2 = 2.0**0.5


def floor_log2(x: Tensor) -> Tensor:
    """floor(log2 x) of x >= 0 float32, int32; -127 for zero and numbers below 2^-126."""
    return (x.view(torch.int32) >> 23 & 255) - 127


def round_log2(x: Tensor) -> Tensor:
    """round(log2 x) of x >= 0 float32, int32; -127 for zero and numbers below 2^-126.

    No power of two times sqrt 2 is a float: there are no ties.
    """
    exponent = floor_log2(x)
    return exponent + (x > times_power(torch.full_like(x, _SQRT2), exponent)).to(torch.int32)


def power(exponent: Tensor) -> Tensor:
    """2^exponent float32 for exponents int32 in -126..127."""
    return (exponent + 127 << 23).view(torch.float32)


def times_power(x: Tensor, exponent: Tensor) -> Tensor:
    """x 2^exponent float32 with one rounding at most, for exponents int32 in -252..254."""
    half = exponent >> 1
    return x * power(half) * power(exponent - half)
