"""Bit packing of codes of any width, least significant bit first."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(codes: Tensor, width: int) -> Tensor:
    """codes [...] int32, their lowest `width` bits (1..32) each -> bytes [ceil(N width / 8)]."""
    flat = codes.reshape(-1, 1)
    bits = (flat >> torch.arange(width, device=codes.device, dtype=torch.int32)) & 1
    stream = bits.to(torch.uint8).flatten()
    stream = torch.cat([stream, stream.new_zeros(-len(stream) % 8)]).view(-1, 8)
    return (stream << torch.arange(8, device=codes.device, dtype=torch.uint8)).sum(
        1, dtype=torch.uint8
    )


def unpack(packed: Tensor, width: int, count: int, signed: bool) -> Tensor:
    """Inverse of pack: codes [count] int32; two's complement of `width` bits if `signed`."""
    eight = torch.arange(8, device=packed.device, dtype=torch.uint8)
    stream = ((packed[:, None] >> eight) & 1).flatten()[: count * width]
    bits = stream.view(count, width).to(torch.int64)
    codes = (bits << torch.arange(width, device=packed.device)).sum(1)
    if signed:
        codes = codes - (bits[:, -1] << width)
    elif width == 32:
        codes = codes - (bits[:, -1] << 32)  # as int32 holds them
    return codes.to(torch.int32)
