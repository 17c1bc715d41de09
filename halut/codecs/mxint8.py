"""MXINT8: blocks of 32 integers of 8 bits, one 8-bit power of two each (OCP Microscaling, 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.codecs.base import CodecOptions, codecs
from halut.codecs.block_fp import BlockFpCodec
from halut.codecs.powers import times_power

BLOCK = 32


@codecs.register("mxint8")
class Mxint8Codec(BlockFpCodec):
    """(m / 64) 2^floor(log2 max abs x) of the block of 32, m rounded to even within +-127.

    Block floating point of 8 bits, stored as the standard says: m int8, scale uint8 with bias 127.
    """

    Options = CodecOptions

    @property
    def width(self) -> int:
        return 8

    @property
    def block(self) -> int:
        return min(BLOCK, self.layout.shape[-1])

    def packed_scales(self, scales: Tensor) -> Tensor:
        return (scales + 6 + 127).to(torch.uint8)

    def unpacked_scales(self, packed: Tensor) -> Tensor:
        return packed.to(torch.int32) - 127 - 6


def dequantise(mantissa: Tensor, exponent: Tensor) -> Tensor:
    """(m / 64) 2^(e - 127) float32 of mantissas int8, -128 too, and scales e uint8 in 0..254.

    The two broadcast. Exact, but for -128 / 64 * 2^127, which float32 does not reach: -inf.
    """
    return times_power(mantissa.to(torch.float32), exponent.to(torch.int32) - 127 - 6)
