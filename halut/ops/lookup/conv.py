"""Filter taps gathered from an activation map: its im2col is never built.

Column (channel * kh + i) * kw + j of a patch is input channel `channel` at kernel position (i, j),
over all channels (those of group g are contiguous, so columns are group-major). Rows are ordered
(image, oy, ox).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.core.checks import check_floating, check_same_device
from halut.ops.geometry import ConvGeometry, check_taps, check_window, is_channels_last


def conv_taps(
    x: Tensor,
    taps: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """Columns `taps` of the im2col rows of x, [B * OH * OW, T], differentiable in x.

    x [B, Cin, H, W] contiguous or channels_last, taps int64 [T] in [0, Cin * kh * kw), in any
    order and with repeats; padding (left, right, top, bottom) is zero. The result is strided
    column by column for a contiguous x. Raises HalutError if shapes do not fit.
    """
    _check_map(x, kernel_size, stride, padding, dilation)
    check_same_device(x=x, taps=taps)
    if taps.dtype != torch.int64 or taps.ndim != 1 or taps.shape[0] == 0:
        raise HalutError(f"taps must be int64 [T >= 1], got {taps.dtype} {list(taps.shape)}")
    geometry = [list(part) for part in (kernel_size, stride, padding, dilation)]
    return torch.ops.halut.conv_taps(x, taps, *geometry)


def im2col(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """All patches of x [B, Cin, H, W] as rows, [B * OH * OW, Cin * kh * kw], differentiable."""
    _check_map(x, kernel_size, stride, padding, dilation)
    padded = F.pad(x, list(padding)) if any(padding) else x
    columns = F.unfold(padded, tuple(kernel_size), tuple(dilation), 0, tuple(stride))
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def _check_map(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> None:
    check_floating("x", x, 4)
    check_window(x, kernel_size, stride, padding, dilation)


@torch.library.custom_op("halut::conv_taps", mutates_args=())
def _conv_taps(
    x: Tensor,
    taps: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    geometry = ConvGeometry.of_window(kernel_size, stride, padding, dilation)
    return dispatch.run("conv_taps", x.device, x, taps, geometry)


@_conv_taps.register_fake
def _(
    x: Tensor,
    taps: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    geometry = ConvGeometry.of_window(kernel_size, stride, padding, dilation)
    OH, OW = geometry.output_size(x.shape[2], x.shape[3])
    rows = x.shape[0] * OH * OW
    if is_channels_last(x):
        return x.new_empty(rows, taps.shape[0])
    return x.new_empty(taps.shape[0], rows).t()


@torch.library.custom_op("halut::conv_taps_backward", mutates_args=())
def _conv_taps_backward(
    grad: Tensor,
    taps: Tensor,
    size: Sequence[int],
    channels_last: bool,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    geometry = ConvGeometry.of_window(kernel_size, stride, padding, dilation)
    return dispatch.run(
        "conv_taps_gradient", grad.device, grad, taps, size, channels_last, geometry
    )


@_conv_taps_backward.register_fake
def _(
    grad: Tensor,
    taps: Tensor,
    size: Sequence[int],
    channels_last: bool,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=grad.dtype, device=grad.device, memory_format=layout)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, taps, *ctx.geometry = inputs
    ctx.save_for_backward(taps)
    ctx.size, ctx.channels_last = x.shape, is_channels_last(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (taps,) = ctx.saved_tensors
    dx = torch.ops.halut.conv_taps_backward(grad, taps, ctx.size, ctx.channels_last, *ctx.geometry)
    return dx, None, None, None, None, None


_conv_taps.register_autograd(_backward, setup_context=_save)


@dispatch.implementation("conv_taps", "torch")
def conv_taps_torch(x: Tensor, taps: Tensor, geometry: ConvGeometry) -> Tensor:
    """`conv_taps` as one indexing of the overlapping view [B, Cin, kh, kw, OH, OW] of the map."""
    (kh, kw), (sh, sw) = geometry.kernel_size, geometry.stride
    B, Cin = x.shape[:2]
    OH, OW = geometry.output_size(x.shape[2], x.shape[3])
    check_taps(taps, Cin * kh * kw)
    padded = F.pad(x, geometry.padding) if any(geometry.padding) else x
    b, c, h, w = padded.stride()
    strides = (b, c, h * geometry.dilation[0], w * geometry.dilation[1], h * sh, w * sw)
    patches = padded.as_strided((B, Cin, kh, kw, OH, OW), strides, padded.storage_offset())
    where = (taps // (kh * kw), taps // kw % kh, taps % kw)
    if is_channels_last(x):
        columns = patches.permute(0, 4, 5, 1, 2, 3)[:, :, :, where[0], where[1], where[2]]
        return columns.reshape(B * OH * OW, taps.shape[0]).contiguous()
    return patches.permute(1, 2, 3, 0, 4, 5)[where].reshape(taps.shape[0], -1).contiguous().t()


@dispatch.implementation("conv_taps_gradient", "torch")
def conv_taps_gradient_torch(
    grad: Tensor, taps: Tensor, size: Sequence[int], channels_last: bool, geometry: ConvGeometry
) -> Tensor:
    """The map's gradient: columns of one kernel position are added to its channels at once."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel_size, geometry.stride, geometry.dilation
    left, right, top, bottom = geometry.padding
    B, Cin, H, W = size
    OH, OW = geometry.output_size(H, W)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    padded = grad.new_zeros(B, Cin, H + top + bottom, W + left + right)
    padded = padded.to(memory_format=layout)
    columns = grad.reshape(B, OH, OW, taps.shape[0]).permute(0, 3, 1, 2)  # [B, T, OH, OW]
    order = torch.argsort(taps % (kh * kw), stable=True)
    counts = torch.bincount(taps % (kh * kw), minlength=kh * kw).tolist()
    for position, members in enumerate(order.split(counts)):
        y, x = position // kw * dh, position % kw * dw
        pixels = padded[:, :, y : y + sh * (OH - 1) + 1 : sh, x : x + sw * (OW - 1) + 1 : sw]
        if members.numel():
            pixels.index_add_(1, taps[members] // (kh * kw), columns[:, members])
    return padded[:, :, top : top + H, left : left + W].contiguous(memory_format=layout)
