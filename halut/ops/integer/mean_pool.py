"""Global mean pooling of uint8 maps to bytes.

    y[b, c, 0, 0] = clamp(rint(sum over h, w of x[b, c, h, w] * scale + shift), 0, 255)

The sum is exact and becomes float32; product and sum are each rounded to float32, ties of rint go
to even. With x on the grid (s, z), y on the grid (t, u) and n pixels, scale = s / (n t) and
shift = u - z s / t.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core import dispatch

MAX_PIXELS = 1 << 24
"""Pixels of a map: their sum fits int32."""


def mean_pool(x: Tensor, scale: float, shift: float) -> Tensor:
    """x uint8 [B, C, H, W] -> uint8 [B, C, 1, 1].

    Raises HalutError for another dtype or shape, or a map of no or of 2^24 pixels and more.
    """
    if x.dtype != torch.uint8 or x.ndim != 4:
        raise HalutError(f"x must be a uint8 map [B, C, H, W], got {x.dtype} {list(x.shape)}")
    if not 1 <= x.shape[2] * x.shape[3] < MAX_PIXELS:
        raise HalutError(f"maps must have 1 to {MAX_PIXELS - 1} pixels, got {list(x.shape[2:])}")
    return torch.ops.halut.mean_pool(x, scale, shift)


_library = torch.library.Library("halut", "FRAGMENT")
_library.define(
    "mean_pool(Tensor x, float scale, float shift) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl(_library, "mean_pool", "CompositeExplicitAutograd")
def _(x: Tensor, scale: float, shift: float) -> Tensor:
    return dispatch.run("mean_pool", x.device, x, scale, shift)


@torch.library.register_fake("halut::mean_pool", lib=_library)
def _(x: Tensor, scale: float, shift: float) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], 1, 1)


@dispatch.implementation("mean_pool", "torch")
def mean_pool_torch(x: Tensor, scale: float, shift: float) -> Tensor:
    """Sums as int32, then as the formula has it."""
    sums = x.sum((2, 3), keepdim=True, dtype=torch.int32).to(torch.float32)
    return (sums * scale).add_(shift).round_().clamp_(0, 255).to(torch.uint8)
