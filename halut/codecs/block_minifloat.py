"""Minifloats that share the exponent bias of their block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halut.codecs.base import codecs
from halut.codecs.minifloat_ieee import check_fields, decode_ieee, encode_ieee, largest_ieee
from halut.codecs.powers import HIGHEST, LOWEST, floor_log2, times_power
from halut.codecs.shared_exponent import BlockOptions, SharedExponentCodec
from halut.option import option


@dataclass
class BlockMinifloatOptions(BlockOptions):
    """`width` bits: sign, `exponent` bits, and the mantissa in the rest."""

    width: int = option(8, "bits, 2..16")
    exponent: int = option(4, "bits of the exponent")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self.width, self.exponent)


@codecs.register("block_minifloat")
class BlockMinifloatCodec(SharedExponentCodec):
    """minifloat_ieee elements, their bias the highest at which the block's maximum is in range."""

    Options = BlockMinifloatOptions

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
