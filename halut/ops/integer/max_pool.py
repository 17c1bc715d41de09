"""Max pooling of uint8 maps, which torch lacks.

    y[b, c, oy, ox] = max over i, j of x[b, c, oy sh + i - top, ox sw + j - left], 0 outside

which is the least there is. Torch's own pooling of bytes is slow, and fails in channels_last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.geometry import ConvGeometry, is_channels_last


def max_pool(x: Tensor, geometry: ConvGeometry, contiguous: bool = False) -> Tensor:
    """x uint8 [B, C, H, W] -> uint8 [B, C, OH, OW], in x's memory format, or contiguous.

    Raises HalutError for another dtype or shape, or a map smaller than the window.
    """
    if x.dtype != torch.uint8 or x.ndim != 4:
        raise HalutError(f"x must be a uint8 map [B, C, H, W], got {x.dtype} {list(x.shape)}")
    if min(geometry.output_size(x.shape[2], x.shape[3])) < 1:
        raise HalutError(f"a map of {list(x.shape[2:])} pixels is smaller than {geometry}")
    return torch.ops.halut.max_pool(x, geometry.numbers, contiguous)


def pooled_like(x: Tensor, geometry: ConvGeometry, contiguous: bool) -> Tensor:
    """An uninitialized answer."""
    size = (*x.shape[:2], *geometry.output_size(x.shape[2], x.shape[3]))
    planes = contiguous or not is_channels_last(x)
    layout = torch.contiguous_format if planes else torch.channels_last
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)


def _geometry(numbers: Sequence[int]) -> ConvGeometry:
    geometry = ConvGeometry.of_numbers(tuple(numbers))
    assert geometry is not None
    return geometry


_library = torch.library.Library("halut", "FRAGMENT")
_library.define(
    "max_pool(Tensor x, int[] geometry, bool contiguous) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl(_library, "max_pool", "CompositeExplicitAutograd")
def _(x: Tensor, geometry: Sequence[int], contiguous: bool) -> Tensor:
    shape = _geometry(geometry)
    if x.numel() == 0:
        return pooled_like(x, shape, contiguous)
    return dispatch.run("max_pool", x.device, x, shape, contiguous)


@torch.library.register_fake("halut::max_pool", lib=_library)
def _(x: Tensor, geometry: Sequence[int], contiguous: bool) -> Tensor:
    return pooled_like(x, _geometry(geometry), contiguous)


@dispatch.implementation("max_pool", "torch")
def max_pool_torch(x: Tensor, geometry: ConvGeometry, contiguous: bool) -> Tensor:
    """Maxima of shifted maps, rows first."""
    maxima = F.pad(x, geometry.padding)
    shape = zip(geometry.kernel_size, geometry.stride, geometry.dilation, strict=True)
    for dim, (size, stride, dilation) in zip((2, 3), shape, strict=True):
        count = (maxima.shape[dim] - dilation * (size - 1) - 1) // stride + 1
        every = (*[slice(None)] * dim, slice(None, None, stride))
        parts = [
            maxima.narrow(dim, i * dilation, (count - 1) * stride + 1)[every] for i in range(size)
        ]
        maxima = parts[0]
        for part in parts[1:]:
            maxima = torch.maximum(maxima, part)
    return pooled_like(x, geometry, contiguous).copy_(maxima)
