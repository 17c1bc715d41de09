"""Small floating-point numbers without an implicit one."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.codecs.base import codecs
from halut.codecs.minifloat_ieee import MinifloatIeeeCodec
from halut.codecs.powers import floor_log2, times_power
from halut.configs import MinifloatDenorm


@codecs.register("minifloat_denorm")
class MinifloatDenormCodec(MinifloatIeeeCodec):
    """Nearest of +-m 2^-M 2^(e - bias), m in [0, 2^M): ties to even m, saturating.

    What the missing one costs: half of all codes name a number twice, so that a step is as wide as
    with a mantissa bit less; and a power of two 2^k is the number (1/2) 2^(k+1), one exponent up,
    so that the highest, 2^(2^exponent - 1 - bias), has no code: it loses 2^-M of itself. An
    encoder that takes the exponent ceil(log2 |x|) loses that at every power of two; this one
    does not.
    """

    Config = MinifloatDenorm

    def element_limits(self) -> tuple[float, float]:
        largest = (1 - 2.0**-self.mantissa) * 2.0 ** (2 ** (self.options.exponent - 1))
        return -largest, largest

    def encode_elements(self, elements: Tensor) -> Tensor:
        e, M = self.options.exponent, self.mantissa
        lowest = 1 - 2 ** (e - 1)  # the exponent of the field 0
        a = elements.abs().clamp(max=self.element_limits()[1])
        E = (floor_log2(a) + 1).clamp(min=lowest)
        steps = torch.round(times_power(a, M - E)).to(torch.int32)
        carry = steps >> M  # 2^M steps are half as many, one exponent up
        biased = E - lowest + carry
        top = biased >= 2**e
        steps = torch.where(top, 2**M - 1, steps >> carry)
        magnitude = (torch.where(top, 2**e - 1, biased) << M) + steps
        magnitude = torch.where(steps == 0, 0, magnitude)
        negative = (elements < 0) & (magnitude > 0)
        return (magnitude + (negative.to(torch.int32) << (self.width - 1))).to(torch.int32)

    def decode_elements(self, codes: Tensor) -> Tensor:
        e, M = self.options.exponent, self.mantissa
        negative = (codes >> (self.width - 1)) & 1
        E = ((codes >> M) & (2**e - 1)) + (1 - 2 ** (e - 1))
        steps = (codes & (2**M - 1)) * (1 - 2 * negative)
        return times_power(steps.to(torch.float32), E - M)
