"""Inference operator of a table layer with given codes: look up, add, scale, clamp.

    y[n, g, m] = max(scale[g, m] * sum_c table[g, c, codes[n, g, c], m] + bias[g, m], low)

with the rounding of halut.ops.layer.encoded. Zero points fold into bias and low: an int8 answer of
zero point z has z added to its bias, and ReLU is low = z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halut.ops.core import dispatch
from halut.ops.core.checks import check_codes, check_same_device
from halut.ops.epilogue import requantize, reshape_output
from halut.ops.geometry import ConvGeometry
from halut.ops.layer.checks import check_answer


def code_layer(
    codes: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Answers [N, G * M] of codes [N, G * C] uint8 in [0, K).

    table, packed, scale, bias, low and dtype as in halut.ops.tree_layer. Encode once and call this
    for several tables where layers share an encoder. N may be 0; codes of K or more are not looked
    for. Raises HalutError on dtypes, shapes or devices that do not fit. There is no gradient.
    """
    check_answer(table, packed, scale, bias, low, dtype)
    check_codes(codes, table.shape[0] * table.shape[1])
    check_same_device(codes=codes, table=table)
    return torch.ops.halut.code_layer(codes, table, packed, scale, bias, low, dtype)


_library = torch.library.Library("halut", "FRAGMENT")
_library.define(
    "code_layer(Tensor codes, Tensor table, Tensor packed, Tensor scale, Tensor bias, "
    "float? low, ScalarType dtype) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl(_library, "code_layer", "CompositeExplicitAutograd")
def _(
    codes: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
) -> Tensor:
    if codes.shape[0] == 0:
        return scale.new_empty(0, scale.shape[0], dtype=dtype)
    arguments = codes, table, packed, scale, bias, low, dtype
    return dispatch.run("code_layer", codes.device, *arguments)


@torch.library.register_fake("halut::code_layer", lib=_library)
def _(
    codes: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
) -> Tensor:
    return scale.new_empty(codes.shape[0], scale.shape[0], dtype=dtype)


@dispatch.implementation("code_layer", "torch")
def code_layer_torch(
    codes: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """`accumulate`, the best that is registered, then the scaling."""
    return requantize(
        dispatch.run("accumulate", codes.device, codes, table), scale, bias, low, dtype
    )


@dispatch.implementation("code_map", "torch")
def code_map_torch(
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
    """`code_layer` as the answer to the map x, in its layout, that `tree_layer` would give."""
    arguments = (codes, table, packed, scale, bias, low, dtype)
    return reshape_output(dispatch.run("code_layer", codes.device, *arguments), x, geometry)
