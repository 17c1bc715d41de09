"""Epilogue of the inference operators: scale, bias, residual, clamp, and output layout."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.geometry import ConvGeometry, is_channels_last

LIMITS = {torch.int8: (-128.0, 127.0), torch.uint8: (0.0, 255.0)}


def output_size_of(
    x: Tensor, outputs: int, geometry: ConvGeometry | None
) -> tuple[tuple[int, ...], torch.memory_format]:
    """Shape and memory format of the answer to x: rows [N, outputs], or a map in x's format."""
    if geometry is None:
        return (x.shape[0], outputs), torch.contiguous_format
    OH, OW = geometry.output_size(x.shape[2], x.shape[3])
    if OH < 1 or OW < 1:
        raise HalutError(f"a map of {list(x.shape[2:])} pixels is smaller than {geometry}")
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return (x.shape[0], outputs, OH, OW), layout


def empty_output(
    x: Tensor, outputs: int, dtype: torch.dtype, geometry: ConvGeometry | None
) -> Tensor:
    """An uninitialized answer for x: rows [N, outputs], or a map in x's memory format."""
    size, layout = output_size_of(x, outputs, geometry)
    return torch.empty(size, dtype=dtype, device=x.device, memory_format=layout)


def match_layout(out: Tensor, residual: Tensor) -> Tensor:
    """The residual with the strides of the answer it is added to, as kernels read it."""
    if residual.stride() == out.stride():
        return residual
    return torch.empty_like(out, dtype=residual.dtype).copy_(residual)


def requantize(
    sums: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """Sums [N, G * M] int32 or float32 as answers of `dtype`; residual rows [N, G * M]."""
    y = (sums.to(torch.float32) * scale).add_(bias)
    if residual is not None:
        y += residual.to(torch.float32) * residual_scale
    if low is not None:
        y.clamp_(min=low)
    if dtype in LIMITS:
        y.round_().clamp_(*LIMITS[dtype])
    return y.to(dtype)


def rows_of(y: Tensor | None) -> Tensor | None:
    """An answer's rows [N, G * M]: those of a map in the order (image, oy, ox)."""
    if y is None or y.ndim == 2:
        return y
    return y.permute(0, 2, 3, 1).reshape(-1, y.shape[1])


def as_map(rows: Tensor, x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Rows [N, G * M] of the map x [B, ...] as the map [B, G * M, OH, OW] they are; no copy."""
    size = geometry.output_size(x.shape[2], x.shape[3])
    return rows.view(x.shape[0], *size, rows.shape[1]).permute(0, 3, 1, 2)


def reshape_output(rows: Tensor, x: Tensor, geometry: ConvGeometry | None) -> Tensor:
    """Answer rows [N, G * M] as the layer's answer."""
    if geometry is None:
        return rows
    y = empty_output(x, rows.shape[1], rows.dtype, geometry)
    return y.copy_(as_map(rows, x, geometry))
