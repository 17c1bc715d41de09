"""Minifloats that share the exponent bias of their block."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.codecs.base import codecs
from halut.codecs.minifloat_ieee import decode_ieee, encode_ieee, largest_ieee
from halut.codecs.powers import HIGHEST, LOWEST, floor_log2, times_power
from halut.codecs.shared_exponent import SharedExponentCodec
from halut.configs import BlockMinifloat


@codecs.register("block_minifloat")
class BlockMinifloatCodec(SharedExponentCodec):
    """minifloat_ieee elements, their bias the highest at which the block's maximum is in range."""

    Config = BlockMinifloat
    arithmetic = "fp"

    @property
    def width(self) -> int:
        return self.options.width

    @property
    def mantissa(self) -> int:
        """Bits behind the point."""
        return self.width - 1 - self.options.exponent

    def exponent_of(self, largest: Tensor) -> Tensor:
        S = (floor_log2(largest) - 2 ** (self.options.exponent - 1)).clamp(LOWEST, HIGHEST)
        return S + (times_power(largest, -S) > self.element_limits()[1]).to(torch.int32)

    def element_limits(self) -> tuple[float, float]:
        largest = largest_ieee(self.options.exponent, self.mantissa)
        return -largest, largest

    def encode_elements(self, elements: Tensor) -> Tensor:
        return encode_ieee(elements, self.options.exponent, self.mantissa)

    def decode_elements(self, codes: Tensor) -> Tensor:
        return decode_ieee(codes, self.options.exponent, self.mantissa)
