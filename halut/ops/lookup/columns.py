"""Columns of rows [N, D], or of the im2col rows of an activation map, that encoders read.

Operators take x itself, the taps and the geometry (None: x holds the rows), so that no gathered
column outlives the call that reads it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core.checks import check_same_device, compute_dtype
from halut.ops.geometry import ConvGeometry, check_taps, check_window, is_channels_last
from halut.ops.lookup.conv import conv_taps, conv_taps_gradient_torch, conv_taps_torch, im2col


def columns_of(x: Tensor, taps: Tensor, geometry: ConvGeometry | None = None) -> Tensor:
    """Columns `taps` of x's rows, [N, T], differentiable in x."""
    if geometry is None:
        return x[:, taps]
    g = geometry
    return conv_taps(x, taps, g.kernel_size, g.stride, g.padding, g.dilation)


def columns_torch(x: Tensor, taps: Tensor, geometry: ConvGeometry | None) -> Tensor:
    """`columns_of` within an operator, in torch alone."""
    if geometry is not None:
        return conv_taps_torch(x, taps, geometry)
    check_taps(taps, x.shape[1])
    return x[:, taps]


def columns_gradient_torch(
    grad: Tensor, taps: Tensor, x: Tensor, geometry: ConvGeometry | None
) -> Tensor:
    """The gradient of x, laid out as `empty_gradient`, from that of its columns [N, T]."""
    if geometry is None:
        return grad.new_zeros(x.shape).index_add_(1, taps, grad)
    return conv_taps_gradient_torch(grad, taps, x.shape, is_channels_last(x), geometry)


def rows_torch(x: Tensor, geometry: ConvGeometry | None) -> Tensor:
    """All columns of x's rows, [N, D], in torch alone; those of a map in a dtype to compute in."""
    if geometry is None:
        return x
    if x.shape[0] == 0:
        return x.new_zeros(0, column_count(x, geometry))
    g = geometry
    return im2col(x.to(compute_dtype(x.dtype)), g.kernel_size, g.stride, g.padding, g.dilation)


def rows_gradient_torch(grad: Tensor, x: Tensor, geometry: ConvGeometry | None) -> Tensor:
    """The gradient of x, laid out as `empty_gradient`, from that of its rows [N, D]."""
    if geometry is None or x.shape[0] == 0:
        return grad.to(x.dtype) if geometry is None else zero_gradient(x)
    g, (left, right, top, bottom) = geometry, geometry.padding
    B, _, H, W = x.shape
    columns = grad.view(B, -1, grad.shape[1]).transpose(1, 2)
    size = (H + top + bottom, W + left + right)
    padded = F.fold(columns, size, g.kernel_size, g.dilation, 0, g.stride)
    return empty_gradient(x).copy_(padded[:, :, top : top + H, left : left + W])


def empty_gradient(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Undefined values like x, or of another dtype: channels_last where x is, else contiguous."""
    layout = torch.channels_last if x.ndim == 4 and is_channels_last(x) else torch.contiguous_format
    return torch.empty(x.shape, dtype=dtype or x.dtype, device=x.device, memory_format=layout)


def zero_gradient(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros, laid out as `empty_gradient`."""
    return empty_gradient(x, dtype).zero_()


def row_count(x: Tensor, geometry: ConvGeometry | None) -> int:
    """N: rows of x, or output positions of all its images."""
    if geometry is None:
        return x.shape[0]
    OH, OW = geometry.output_size(x.shape[2], x.shape[3])
    return x.shape[0] * OH * OW


def column_count(x: Tensor, geometry: ConvGeometry | None) -> int:
    """Columns the rows have."""
    if geometry is None:
        return x.shape[1]
    return x.shape[1] * geometry.kernel_size[0] * geometry.kernel_size[1]


def check_source(x: Tensor, geometry: ConvGeometry | None) -> None:
    """Raise HalutError unless x is rows, or a map that fits the geometry."""
    if geometry is not None:
        if x.ndim != 4:
            raise HalutError(f"x must have 4 dimensions, got {list(x.shape)}")
        g = geometry
        check_window(x, g.kernel_size, g.stride, g.padding, g.dilation)
    elif x.ndim != 2:
        raise HalutError(f"x must have 2 dimensions, or a geometry, got {list(x.shape)}")


def check_columns(x: Tensor, taps: Tensor, geometry: ConvGeometry | None) -> None:
    """Raise HalutError unless x is rows, or a map that fits the geometry, and taps int64 [T]."""
    check_source(x, geometry)
    check_same_device(x=x, taps=taps)
    if taps.dtype != torch.int64 or taps.ndim != 1:
        raise HalutError(f"taps must be int64 [T], got {taps.dtype} {list(taps.shape)}")
