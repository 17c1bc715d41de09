"""Small floating-point numbers with an implicit one and subnormals; no infinity, saturating."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.codecs.base import codecs
from halut.codecs.powers import floor_log2, times_power
from halut.codecs.shared_exponent import SharedExponentCodec
from halut.configs import MinifloatIEEE


def encode_ieee(x: Tensor, exponent: int, mantissa: int) -> Tensor:
    """Nearest codes int32 (sign, exponent, mantissa), ties to even, at bias 2^(exponent - 1) - 1.

    Magnitude codes rise with the magnitude, so that a carry into the exponent is a sum's, and
    subnormals are those whose exponent is held at its lowest.
    """
    lowest = 2 - 2 ** (exponent - 1)  # of normal numbers, and the subnormals' too
    a = x.abs().clamp(max=largest_ieee(exponent, mantissa))
    E = floor_log2(a).clamp(min=lowest)
    steps = torch.round(times_power(a, mantissa - E)).to(torch.int32)
    magnitude = ((E - lowest) << mantissa) + steps
    negative = (x < 0) & (magnitude > 0)
    return magnitude + (negative.to(torch.int32) << (exponent + mantissa))


def decode_ieee(codes: Tensor, exponent: int, mantissa: int) -> Tensor:
    """float32 values of codes int32."""
    negative = (codes >> (exponent + mantissa)) & 1
    biased = (codes >> mantissa) & (2**exponent - 1)
    steps = (codes & (2**mantissa - 1)) + (torch.where(biased > 0, 1, 0) << mantissa)
    lowest = 2 - 2 ** (exponent - 1)
    scale = (biased - 1).clamp(min=0) + (lowest - mantissa)
    return times_power((steps * (1 - 2 * negative)).to(torch.float32), scale.to(torch.int32))


def largest_ieee(exponent: int, mantissa: int) -> float:
    """(2 - 2^-mantissa) 2^(2^(exponent - 1)): no code is spent on infinity or NaN."""
    return (2 - 2.0**-mantissa) * 2.0 ** (2 ** (exponent - 1))


@codecs.register("minifloat_ieee")
class MinifloatIeeeCodec(SharedExponentCodec):
    """Nearest of +-(1 + m 2^-M) 2^(e - bias) and the subnormals +-m 2^(1 - bias - M).

    Ties to even with carry into the exponent; beyond the largest it saturates. Of 8 bits with 4 of
    exponent it is torch.float8_e4m3fn up to 448, where that keeps its NaN.
    """

    Config = MinifloatIEEE
    arithmetic = "fp"

    @property
    def width(self) -> int:
        return self.options.width

    @property
    def mantissa(self) -> int:
        """Bits behind the point."""
        return self.width - 1 - self.options.exponent

    def fixed_exponent(self) -> int | None:
        bias = self.options.exponent_bias
        return 0 if bias is None else 2 ** (self.options.exponent - 1) - 1 - bias

    def element_limits(self) -> tuple[float, float]:
        largest = largest_ieee(self.options.exponent, self.mantissa)
        return -largest, largest

    def encode_elements(self, elements: Tensor) -> Tensor:
        return encode_ieee(elements, self.options.exponent, self.mantissa)

    def decode_elements(self, codes: Tensor) -> Tensor:
        return decode_ieee(codes, self.options.exponent, self.mantissa)
