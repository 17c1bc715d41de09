"""Oracles of halut.ops.layer.encoded: all rows built, every tree walked, every entry looked up."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.ops.geometry import ConvGeometry
from tests.oracles.im2col import im2col_reference
from tests.oracles.lookup import accumulate_reference
from tests.oracles.nearest import nearest_encode_reference
from tests.oracles.tree import tree_encode_reference


def tree_layer_reference(
    x: Tensor,
    taps: Tensor,
    thresholds: Tensor,
    table: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None = None,
    dtype: torch.dtype = torch.float32,
    geometry: ConvGeometry | None = None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """Oracle of `tree_layer`."""
    codes = tree_encode_reference(im2col_reference(x.float(), geometry)[:, taps], thresholds)
    answer = (scale, bias, low, dtype, geometry, residual, residual_scale)
    return _corrupted(_answer(codes, x, table, *answer), x, table, geometry)


def nearest_layer_reference(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int,
    table: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None = None,
    dtype: torch.dtype = torch.float32,
    geometry: ConvGeometry | None = None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """Oracle of `nearest_layer`."""
    codes = nearest_encode_reference(
        im2col_reference(x.float(), geometry), prototypes, metric, groups
    )
    answer = (scale, bias, low, dtype, geometry, residual, residual_scale)
    return _corrupted(_answer(codes, x, table, *answer), x, table, geometry)


def code_layer_reference(
    codes: Tensor,
    table: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Oracle of halut.ops.layer.coded."""
    return _answer(codes, codes, table, scale, bias, low, dtype, None, None, 1.0)


def _corrupted(y: Tensor, x: Tensor, table: Tensor, geometry: ConvGeometry | None) -> Tensor:
    """y, NaN where the row's inputs, of the output's group, are not all finite."""
    rows, G = im2col_reference(x.float(), geometry), table.shape[0]
    bad = ~torch.isfinite(rows.view(len(rows), G, -1)).all(-1).repeat_interleave(table.shape[3], 1)
    if geometry is not None:
        bad = bad.view(y.shape[0], *y.shape[2:], -1).permute(0, 3, 1, 2)
    return y.masked_fill(bad, float("nan")) if y.is_floating_point() else y


def _answer(codes, x, table, scale, bias, low, dtype, geometry, residual, factor) -> Tensor:
    product = accumulate_reference(codes, table).float() * scale
    y = product + bias
    if geometry is not None:
        OH, OW = geometry.output_size(x.shape[2], x.shape[3])
        y = y.view(x.shape[0], OH, OW, -1).permute(0, 3, 1, 2).contiguous()
    if residual is not None:
        added = residual.float() * factor
        y = y + added
    if low is not None:
        y = torch.where(y < low, torch.full_like(y, low), y)
    if dtype == torch.int8:
        y = torch.round(y).clamp(-128, 127)
    if dtype == torch.uint8:
        y = torch.round(y).clamp(0, 255)
    return y.to(dtype)
