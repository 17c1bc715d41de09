"""Scratch memory of chunked operators: one allocation that every chunk uses again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from halut.errors import HalutError


class Scratch:
    """Hands out uninitialized contiguous tensors from one block of `elements` values.

    Fresh memory costs a page fault per 4 KiB, which for arrays that are passed over once or twice
    is as much as the arithmetic. Raises HalutError when the block is used up.
    """

    def __init__(self, elements: int, dtype: torch.dtype, device: torch.device) -> None:
        self.block = torch.empty(elements, dtype=dtype, device=device)
        self.used = 0

    def reset(self) -> None:
        """Start again: all tensors handed out so far are given up."""
        self.used = 0

    def take(self, *shape: int) -> Tensor:
        """A tensor of this shape with undefined values."""
        start, self.used = self.used, self.used + math.prod(shape)
        if self.used > self.block.numel():
            raise HalutError(f"scratch of {self.block.numel()} values is short of {self.used}")
        return self.block[start : self.used].view(shape)
