"""Inference operator of a whole table layer: encode, look up, add, scale, clamp.

    y[n, g, m] = max(scale[g, m] * sum_c table[g, c, code_c(x_n), m] + bias[g, m] + r[n, g, m], low)

with the residual r = residual * residual_scale, if there is one; NaN where an input of the row, in
the group, is NaN or infinite (halut.ops.core.finite). Neither im2col nor, in a compiled
implementation, the codes need to be built. The sum of int8 entries is exact, and becomes float32;
products and sums are each rounded to float32, from the left (no fused multiply-add), so that every
implementation answers the same bits. An int8 answer is clamp(rint(y), -128, 127), ties to even, a
uint8 one clamp(rint(y), 0, 255). There is no gradient: see tree_matmul and nearest_matmul.

The operators torch.ops.halut.tree_layer and nearest_layer, which these functions call after their
checks, take the geometry as plain lists, kernel_size [] for rows. They are registered through
torch.library.Library: custom_op costs twice as much per call, as much as a small layer takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.core.finite import marked
from halut.ops.epilogue import empty_output, requantize, reshape_output, rows_of
from halut.ops.geometry import ConvGeometry
from halut.ops.layer.checks import check_call, check_residual

ANSWER = "Tensor scale, Tensor bias, float? low, ScalarType dtype"
WINDOW = "int[] kernel_size, int[] stride, int[] padding, int[] dilation"
RESIDUAL = "Tensor? residual=None, float residual_scale=1.0"
SCHEMAS = {
    "tree_layer": f"(Tensor x, Tensor split_dims, Tensor thresholds, Tensor table, Tensor packed, "
    f"{ANSWER}, {WINDOW}, {RESIDUAL}) -> Tensor",
    "nearest_layer": f"(Tensor x, Tensor prototypes, str metric, int groups, Tensor table, "
    f"Tensor packed, {ANSWER}, {WINDOW}, {RESIDUAL}) -> Tensor",
}


def tree_layer(
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None = None,
    dtype: torch.dtype = torch.float32,
    geometry: ConvGeometry | None = None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """The layer above with the codes of hash trees (halut.ops.tree.encode).

    x: rows [N, columns] (geometry None) or a map [B, Cin, H, W], whose rows are its patches
    (halut.ops.lookup.conv), of float32, float16, bfloat16, int8 or uint8. split_dims int64
    [GC * depth] are columns of the rows, thresholds float32 [GC, K - 1] heap ordered, K = 2**depth;
    table [G, C, K, M] int8 or float32 with G * C = GC; packed = pack_table(table), or an empty
    uint8 tensor; scale and bias float32 [G * M]; low: the least answer (0.0: ReLU), or None; dtype:
    one of those x may have; residual: of the answer's shape and one of these dtypes, or None.

    Returns rows [N, G * M], or the map [B, G * M, OH, OW], contiguous if x is (one channel is), or
    if x is neither, else channels_last. N may be 0. Raises HalutError on dtypes, shapes or devices
    that do not fit, a tap that is no column (on a GPU indexing asserts), and where a gradient is
    asked for.
    """
    arguments = (table, packed, scale, bias, low, dtype, geometry, residual)
    check_call("tree_layer", x, split_dims, thresholds, *arguments)
    epilogue = (scale, bias, low, dtype, *window(geometry), residual, residual_scale)
    return torch.ops.halut.tree_layer(x, split_dims, thresholds, table, packed, *epilogue)


def nearest_layer(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None = None,
    dtype: torch.dtype = torch.float32,
    geometry: ConvGeometry | None = None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """The layer above with the codes of nearest prototypes (halut.ops.nearest.encode).

    prototypes float32 [GC, K, V], zero where a block is narrower than V; metric l2, l1 or
    chebyshev; groups = G divides the columns of x's rows. Everything else as in `tree_layer`.
    Distances are rounded as the implementation takes them: where two prototypes are equally far up
    to that, implementations may differ.
    """
    arguments = (table, packed, scale, bias, low, dtype, geometry, residual)
    check_call("nearest_layer", x, prototypes, metric, groups, *arguments)
    epilogue = (scale, bias, low, dtype, *window(geometry), residual, residual_scale)
    return torch.ops.halut.nearest_layer(x, prototypes, metric, groups, table, packed, *epilogue)


def pack_table(table: Tensor) -> Tensor:
    """table [G, C, K, M] as the preferred implementation on its device wants it: uint8 [bytes].

    Empty where that reads the table itself. Its layout is private to implementation and machine:
    make it anew after loading or moving a table, do not save it.
    """
    return dispatch.run("pack_table", table.device, table)


def window(geometry: ConvGeometry | None) -> tuple[list[int], list[int], list[int], list[int]]:
    """kernel_size, stride, padding and dilation as the operators take them; empty for rows."""
    if geometry is None:
        return [], [], [], []
    g = geometry
    return list(g.kernel_size), list(g.stride), list(g.padding), list(g.dilation)


_library = torch.library.Library("halut", "FRAGMENT")
for _name, _schema in SCHEMAS.items():
    _library.define(_name + _schema, tags=torch.Tag.pt2_compliant_tag)


@torch.library.impl(_library, "tree_layer", "CompositeExplicitAutograd")
def _(
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    *window_and_residual: Any,
) -> Tensor:
    geometry, residual, factor = _where(x, *window_and_residual)
    check_residual(residual, x, scale.shape[0], geometry)
    if x.shape[0] == 0:
        return empty_output(x, scale.shape[0], dtype, geometry)
    inputs = (x, split_dims, thresholds, table, packed, scale, bias, low, dtype)
    return dispatch.run("tree_layer", x.device, *inputs, geometry, residual, factor)


@torch.library.impl(_library, "nearest_layer", "CompositeExplicitAutograd")
def _(
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
    *window_and_residual: Any,
) -> Tensor:
    geometry, residual, factor = _where(x, *window_and_residual)
    check_residual(residual, x, scale.shape[0], geometry)
    if x.shape[0] == 0:
        return empty_output(x, scale.shape[0], dtype, geometry)
    inputs = (x, prototypes, metric, groups, table, packed, scale, bias, low, dtype)
    return dispatch.run("nearest_layer", x.device, *inputs, geometry, residual, factor)


@torch.library.register_fake("halut::tree_layer", lib=_library)
def _(
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    *window_and_residual: Any,
) -> Tensor:
    return empty_output(x, scale.shape[0], dtype, _where(x, *window_and_residual)[0])


@torch.library.register_fake("halut::nearest_layer", lib=_library)
def _(
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
    *window_and_residual: Any,
) -> Tensor:
    return empty_output(x, scale.shape[0], dtype, _where(x, *window_and_residual)[0])


def _where(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> tuple[ConvGeometry | None, Tensor | None, float]:
    """geometry, residual and its scale; refuses a gradient. torch leaves out values at defaults."""
    if x.requires_grad and torch.is_grad_enabled():
        raise HalutError(
            "a layer prepared for inference has no gradient: call it under torch.no_grad(), or "
            "train the network it was prepared from"
        )
    if not kernel_size:
        return None, residual, residual_scale
    geometry = ConvGeometry.of_window(kernel_size, stride, padding, dilation)
    return geometry, residual, residual_scale


@dispatch.implementation("pack_table", "torch")
def pack_table_torch(table: Tensor) -> Tensor:
    """Nothing: the torch implementations read the table itself."""
    return table.new_empty(0, dtype=torch.uint8)


@dispatch.implementation("tree_layer", "torch")
def tree_layer_torch(
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    geometry: ConvGeometry | None,
    residual: Tensor | None = None,
    factor: float = 1.0,
) -> Tensor:
    """`tree_layer` by the operations it is made of, each the best that is registered."""
    codes = dispatch.run("tree_encode", x.device, x, split_dims, thresholds, geometry)
    sums = dispatch.run("accumulate", x.device, codes, table)
    y = requantize(sums, scale, bias, low, dtype, rows_of(residual), factor)
    return marked(reshape_output(y, x, geometry), x, geometry, table.shape[0])


@dispatch.implementation("nearest_layer", "torch")
def nearest_layer_torch(
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
    factor: float = 1.0,
) -> Tensor:
    """`nearest_layer` by the operations it is made of, each the best that is registered."""
    codes = dispatch.run("nearest_encode", x.device, x, prototypes, metric, groups, geometry)
    sums = dispatch.run("accumulate", x.device, codes, table)
    y = requantize(sums, scale, bias, low, dtype, rows_of(residual), factor)
    return marked(reshape_output(y, x, geometry), x, geometry, groups)
