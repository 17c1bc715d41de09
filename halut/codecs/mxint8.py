"""MXINT8: blocks of 32 integers of 8 bits, one 8-bit power of two each (OCP Microscaling, 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.codecs.base import codecs
from halut.codecs.block_fp import BlockFpCodec
from halut.configs import MXINT8

BLOCK = 32


@codecs.register("mxint8")
class Mxint8Codec(BlockFpCodec):
    """(m / 64) 2^floor(log2 max abs x) of the block of 32, m rounded to even within +-127.

    Block floating point of 8 bits, stored as the standard says: m int8, scale uint8 with bias 127.
    """

    Config = MXINT8
    whole_block = BLOCK

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
