"""Whole layers for inference: an encoder's kernel, then the table's with the fused answer."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.ops import dispatch
from halut.ops.answer import answer_like, laid_out_as
from halut.ops.conv import ConvGeometry
from halut.ops.cpu.view import DTYPES
from halut.ops.cuda import launch
from halut.ops.cuda.conv import fits
from halut.ops.cuda.lookup import add_rows
from halut.ops.cuda.nearest import nearest_encode
from halut.ops.cuda.tree import tree_encode


def _supports(x: Tensor, *inputs) -> bool:
    geometry = next((value for value in inputs if isinstance(value, ConvGeometry)), None)
    return x.dtype in DTYPES and fits(x, geometry) and launch.available()


@dispatch.implementation("tree_layer", "cuda", devices=("cuda",), supports=_supports)
def tree_layer(
    x: Tensor,
    taps: Tensor,
    thresholds: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    geometry: ConvGeometry | None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """Codes straight from the input; sums leave as answers, in the input's memory format."""
    codes = tree_encode(x, taps, thresholds, geometry)
    answer = (scale, bias, low, dtype, geometry, residual, residual_scale)
    return _answers(codes, x, table, *answer)


@dispatch.implementation("nearest_layer", "cuda", devices=("cuda",), supports=_supports)
def nearest_layer(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    geometry: ConvGeometry | None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """The same with nearest prototypes; no im2col is built."""
    codes = nearest_encode(x, prototypes, metric, groups, geometry)
    answer = (scale, bias, low, dtype, geometry, residual, residual_scale)
    return _answers(codes, x, table, *answer)


def _supports_codes(codes: Tensor, *inputs) -> bool:
    return launch.available()


@dispatch.implementation("code_layer", "cuda", devices=("cuda",), supports=_supports_codes)
def code_layer(
    codes: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """The table's part alone, of codes that are known."""
    return _answers(codes, codes, table, scale, bias, low, dtype, None, None, 1.0)


@dispatch.implementation("code_map", "cuda", devices=("cuda",), supports=_supports_codes)
def code_map(
    codes: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    x: Tensor,
    geometry: ConvGeometry,
) -> Tensor:
    """The table's part alone, straight into a map laid out like x."""
    return _answers(codes, x, table, scale, bias, low, dtype, geometry, None, 1.0)


def _answers(codes, x, table, scale, bias, low, dtype, geometry, residual, factor) -> Tensor:
    out = answer_like(x, table.shape[0] * table.shape[3], dtype, geometry)
    plane = out.shape[2] * out.shape[3] if out.ndim == 4 and out.is_contiguous() else 0
    if residual is not None:
        residual = laid_out_as(out, residual)
    scale, bias = scale.contiguous(), bias.contiguous()
    add_rows(codes, table, out, scale, bias, low, plane, residual, factor)
    return out
