"""Block floating point: integers that share the exponent of their block's maximum."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from halut.codecs.base import codecs
from halut.codecs.powers import floor_log2, times_power
from halut.codecs.shared_exponent import SharedExponentCodec
from halut.configs import BlockFP, CodecConfig


@codecs.register("block_fp")
class BlockFpCodec(SharedExponentCodec):
    """m 2^(E - w + 2), E = floor(log2 max abs x) of the block, m rounded to even within
    +-(2^(w-1) - 1): the sign and w - 1 bits of mantissa."""

    Config: ClassVar[type[CodecConfig]] = BlockFP
    signed = True

    @property
    def width(self) -> int:
        return self.options.width

    def exponent_of(self, largest: Tensor) -> Tensor:
        return floor_log2(largest) - (self.width - 2)

    def element_limits(self) -> tuple[float, float]:
        largest = 2.0 ** (self.width - 1) - 1
        return -largest, largest

    def encode_elements(self, elements: Tensor) -> Tensor:
        return torch.round(elements).clamp(*self.element_limits()).to(torch.int32)

    def decode_elements(self, codes: Tensor) -> Tensor:
        return codes.to(torch.float32)

    def fake_quantize(self, x: Tensor, scales: Tensor | None = None) -> Tensor:
        S = self.spread(self.scales(x) if scales is None else scales)
        steps = torch.round(times_power(x, -S)).clamp(*self.element_limits())
        return times_power(steps, S)
