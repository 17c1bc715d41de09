"""Argument checks of the inference operators of halut.ops.layer.encoded."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.blocks import Blocks
from halut.ops.core.checks import check_prototypes, check_same_device, check_table
from halut.ops.epilogue import output_size_of
from halut.ops.geometry import ConvGeometry, check_window
from halut.ops.nearest.distance import METRICS

INPUTS = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8)
"""What the layers read and answer."""
TABLES = (torch.int8, torch.float32)


def check_layer(
    x: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    geometry: ConvGeometry | None,
) -> None:
    """Raise HalutError unless x, the table and what makes its sums the answer fit."""
    _check_input(x, geometry)
    check_answer(table, packed, scale, bias, low, dtype)
    check_same_device(x=x, table=table)


def check_answer(
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
) -> None:
    """Raise HalutError unless the table and what makes its sums the answer fit."""
    check_table("table", table)
    _one_of("table", table.dtype, TABLES)
    _one_of("the answer", dtype, INPUTS)
    if packed.dtype != torch.uint8 or packed.ndim != 1:
        raise HalutError(
            f"packed must be what pack_table gave, uint8 [bytes], "
            f"got {packed.dtype} {list(packed.shape)}"
        )
    outputs = table.shape[0] * table.shape[3]
    for name, value in (("scale", scale), ("bias", bias)):
        if value.dtype != torch.float32 or value.shape != (outputs,):
            raise HalutError(
                f"{name} must be float32 [{outputs}], got {value.dtype} {list(value.shape)}"
            )
    if low is not None and math.isnan(low):
        raise HalutError("low must be a number or None, got NaN")
    check_same_device(table=table, packed=packed, scale=scale, bias=bias)


def _check_input(x: Tensor, geometry: ConvGeometry | None) -> None:
    _one_of("x", x.dtype, INPUTS)
    expected = "rows [N, columns]" if geometry is None else "a map [B, Cin, H, W]"
    if x.ndim != (2 if geometry is None else 4) or 0 in x.shape[1:]:
        raise HalutError(f"x must be {expected} with something in it, got {list(x.shape)}")
    if geometry is not None:
        g = geometry
        check_window(x, g.kernel_size, g.stride, g.padding, g.dilation)


def check_residual(
    residual: Tensor | None, x: Tensor, outputs: int, geometry: ConvGeometry | None
) -> None:
    """Raise HalutError unless the residual has the shape of the answer to x."""
    if residual is None:
        return
    _one_of("the residual", residual.dtype, INPUTS)
    expected, _ = output_size_of(x, outputs, geometry)
    if residual.shape != expected:
        raise HalutError(
            f"the residual must have the answer's shape {list(expected)}, "
            f"got {list(residual.shape)}"
        )
    check_same_device(x=x, residual=residual)


def check_call(operation: str, x: Tensor, *arguments: Any) -> None:
    """Raise HalutError unless the operator's arguments fit: tree_layer or nearest_layer.

    `arguments`: what makes the codes, the table and its answer, the geometry, and the residual.
    """
    codes: tuple[Any, ...] = arguments[:-8]
    table, packed, scale, bias, low, dtype, geometry, residual = arguments[-8:]
    check_layer(x, table, packed, scale, bias, low, dtype, geometry)
    if operation == "tree_layer":
        split_dims, thresholds = codes
        check_tree_layer(x, split_dims, thresholds, table)
    else:
        prototypes, metric, groups = codes
        check_nearest_layer(x, prototypes, metric, groups, table, geometry)
    check_residual(residual, x, scale.shape[0], geometry)


def check_tree_layer(x: Tensor, split_dims: Tensor, thresholds: Tensor, table: Tensor) -> None:
    """Raise HalutError unless split_dims and thresholds are trees for the table."""
    GC, K = table.shape[0] * table.shape[1], table.shape[2]
    if K & (K - 1):
        raise HalutError(f"trees need K to be a power of two, got a table of K = {K}")
    _float_of("thresholds", thresholds, (GC, K - 1))
    depth = K.bit_length() - 1
    if split_dims.dtype != torch.int64 or split_dims.shape != (GC * depth,):
        raise HalutError(
            f"split_dims must be int64 [{GC * depth}], {GC} trees of depth {depth}, "
            f"got {split_dims.dtype} {list(split_dims.shape)}"
        )
    check_same_device(x=x, split_dims=split_dims, thresholds=thresholds)


def check_nearest_layer(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int,
    table: Tensor,
    geometry: ConvGeometry | None,
) -> None:
    """Raise HalutError unless the prototypes are those of x's blocks and of the table."""
    if metric not in METRICS:
        raise HalutError(f"unknown metric {metric!r}; choose one of: {', '.join(METRICS)}")
    G, C, K, _ = table.shape
    check_prototypes(K)
    columns = x.shape[1]
    if geometry is not None:
        columns *= geometry.kernel_size[0] * geometry.kernel_size[1]
    if groups != G or columns % groups:
        raise HalutError(
            f"groups must be the table's {G} and divide the {columns} columns of x's rows, "
            f"got {groups}"
        )
    _float_of("prototypes", prototypes, (G * C, K, Blocks(columns // groups, C, groups).V))
    check_same_device(x=x, prototypes=prototypes)


def _float_of(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.dtype != torch.float32 or value.shape != shape:
        raise HalutError(
            f"{name} must be float32 {list(shape)}, got {value.dtype} {list(value.shape)}"
        )


def _one_of(name: str, dtype: torch.dtype, choices: tuple[torch.dtype, ...]) -> None:
    if dtype not in choices:
        names = ", ".join(str(choice).removeprefix("torch.") for choice in choices)
        raise HalutError(f"{name} must be one of {names}, got {dtype}")
