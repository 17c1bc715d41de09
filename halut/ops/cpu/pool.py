"""Pooling of bytes by the compiled kernels (kernels/cpu/ops/max_pool.cpp, mean_pool.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from halut import _kernels  # type: ignore[attr-defined]
from halut.ops.core import dispatch
from halut.ops.cpu.view import view
from halut.ops.geometry import ConvGeometry, is_channels_last
from halut.ops.integer.max_pool import pooled_like


@dispatch.implementation("max_pool", "cpu", devices=("cpu",))
def max_pool(x: Tensor, geometry: ConvGeometry, contiguous: bool) -> Tensor:
    """A row at a time; a channels_last map can leave contiguous at no cost."""
    channels_last = is_channels_last(x)
    if not channels_last:
        x = x.contiguous()
    out = pooled_like(x, geometry, contiguous)
    planes, threads = out.is_contiguous(), torch.get_num_threads()
    if _kernels.max_pool(view(x, geometry), channels_last, out.data_ptr(), planes, threads):
        raise MemoryError("the kernel could not allocate its scratch")
    return out


@dispatch.implementation("mean_pool", "cpu", devices=("cpu",))
def mean_pool(x: Tensor, scale: float, shift: float) -> Tensor:
    """A channel, or 64 of a channels_last map, at a time."""
    channels_last = is_channels_last(x)
    if not channels_last:
        x = x.contiguous()
    B, C, H, W = x.shape
    out = torch.empty(B, C, 1, 1, dtype=torch.uint8, device="cpu")
    sizes = (B, C, H * W, scale, shift, torch.get_num_threads())
    _kernels.mean_pool(x.data_ptr(), channels_last, out.data_ptr(), *sizes)
    return out
