"""Powers of two and zero that share the exponent bias of their block."""

from __future__ import annotations

from torch import Tensor

from halut.codecs.base import codecs
from halut.codecs.log import decode_log, encode_log, exponent_of_log
from halut.codecs.shared_exponent import SharedExponentCodec
from halut.configs import BlockLog


@codecs.register("block_log")
class BlockLogCodec(SharedExponentCodec):
    """log elements, the highest of them the power of two nearest to the block's maximum."""

    Config = BlockLog
    arithmetic = "log"

    @property
    def width(self) -> int:
        return self.options.width

    def exponent_of(self, largest: Tensor) -> Tensor:
        return exponent_of_log(largest, self.width)

    def element_limits(self) -> tuple[float, float]:
        largest = 2.0 ** (2 ** (self.width - 1) - 1)
        return -largest, largest

    def encode_elements(self, elements: Tensor) -> Tensor:
        return encode_log(elements, self.width)

    def decode_elements(self, codes: Tensor) -> Tensor:
        return decode_log(codes, self.width)
