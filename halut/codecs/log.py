"""Powers of two and zero."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.codecs.base import codecs
from halut.codecs.powers import round_log2, times_power
from halut.codecs.shared_exponent import SharedExponentCodec
from halut.configs import Log


def encode_log(x: Tensor, width: int) -> Tensor:
    """Codes int32 of sign(x) 2^clamp(round(log2 |x|), 0, 2^(width - 1) - 1), and of zero.

    The code of -2^0 is spent on zero: what would have it becomes zero, as near to it.
    """
    sign = 2 ** (width - 1)
    exponent = round_log2(x.abs()).clamp(0, sign - 1)
    zero = (x == 0) | ((x < 0) & (exponent == 0))
    return torch.where(zero, sign, exponent + torch.where(x < 0, sign, 0)).to(torch.int32)


def decode_log(codes: Tensor, width: int) -> Tensor:
    """float32 values of codes int32."""
    sign = 2 ** (width - 1)
    factor = 1 - 2 * (codes >= sign).to(torch.float32)
    values = times_power(factor, codes & (sign - 1))
    return torch.where(codes == sign, 0.0, values)


def exponent_of_log(largest: Tensor, width: int) -> Tensor:
    """S int32 such that the highest code is the power of two nearest to `largest`."""
    return round_log2(largest).clamp(max=127) - (2 ** (width - 1) - 1)


@codecs.register("log")
class LogCodec(SharedExponentCodec):
    """sign(x) 2^clamp(round(log2 |x|), -b, 2^(w-1) - 1 - b), zero only for zero.

    Powers of two are that coarse at every width: about 13.8 dB at best. -2^-b, whose code zero
    has, is zero too. b is calibrated per tensor or channel, unless halut.exponent_bias gives it.
    """

    Config = Log
    arithmetic = "log"

    @property
    def width(self) -> int:
        return self.options.width

    def fixed_exponent(self) -> int | None:
        return None if self.options.exponent_bias is None else -self.options.exponent_bias

    def exponent_of(self, largest: Tensor) -> Tensor:
        return exponent_of_log(largest, self.width)

    def element_limits(self) -> tuple[float, float]:
        largest = 2.0 ** (2 ** (self.width - 1) - 1)
        return -largest, largest

    def encode_elements(self, elements: Tensor) -> Tensor:
        return encode_log(elements, self.width)

    def decode_elements(self, codes: Tensor) -> Tensor:
        return decode_log(codes, self.width)
