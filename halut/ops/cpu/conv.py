"""`conv_taps` and its gradient by the compiled kernels (kernels/cpu/ops/columns.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from halut import _kernels  # type: ignore[attr-defined]
from halut.ops.core import dispatch
from halut.ops.cpu.view import refuse, view
from halut.ops.geometry import ConvGeometry, is_channels_last


def _is_float(x: Tensor, *_: Any) -> bool:
    return x.dtype == torch.float32


@dispatch.implementation("conv_taps", "cpu", devices=("cpu",), supports=_is_float)
def conv_taps(x: Tensor, taps: Tensor, geometry: ConvGeometry) -> Tensor:
    """Tiles of rows in parallel."""
    taps, T = taps.contiguous(), taps.shape[0]
    OH, OW = geometry.output_size(x.shape[2], x.shape[3])
    N = x.shape[0] * OH * OW
    out = x.new_empty(N, T) if is_channels_last(x) else x.new_empty(T, N).t()
    where = (out.data_ptr(), *out.stride(), torch.get_num_threads())
    if not _kernels.gather_columns(view(x, geometry), taps.data_ptr(), T, *where):
        refuse(taps, x.shape[1] * geometry.kernel_size[0] * geometry.kernel_size[1])
    return out


@dispatch.implementation("conv_taps_gradient", "cpu", devices=("cpu",), supports=_is_float)
def conv_taps_gradient(
    grad: Tensor, taps: Tensor, size: Sequence[int], channels_last: bool, geometry: ConvGeometry
) -> Tensor:
    """Channels in parallel, each by one thread: the same bits at any number of threads."""
    taps = taps.contiguous()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    dx = torch.empty(size, memory_format=layout, device="cpu").zero_()
    where = (grad.data_ptr(), *grad.stride(), torch.get_num_threads())
    if not _kernels.scatter_columns(view(dx, geometry), taps.data_ptr(), taps.shape[0], *where):
        refuse(taps, size[1] * geometry.kernel_size[0] * geometry.kernel_size[1])
    return dx
