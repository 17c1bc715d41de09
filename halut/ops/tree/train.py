"""A whole tree layer in training: the forward is inference's, the backward the relaxed one.

    y[n, g, m] = scale[g, m] * sum_c table[g, c, code_c(x_n), m] + bias[g, m]

with int8 entries, as `tree_layer` answers it, bit for bit. The gradient is that of tree_matmul for
the float table lut ~ scale * table + offset; what the K entries of one codebook and output have in
common (offset) has no part in it, since relaxed codes sum to one. Only x, thresholds, lut and tau
are saved: codes are found again, which costs less than writing them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.core.checks import check_same_device, check_table, check_tau
from halut.ops.epilogue import empty_output
from halut.ops.geometry import ConvGeometry
from halut.ops.layer.checks import check_layer, check_tree_layer
from halut.ops.lookup.columns import empty_gradient, zero_gradient

INPUTS = (torch.float32, torch.float16, torch.bfloat16)


def tree_train(
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    table: Tensor,
    scale: Tensor,
    bias: Tensor,
    tau: Tensor,
    ste_mix: float = 1.0,
    geometry: ConvGeometry | None = None,
    flips: bool = False,
) -> Tensor:
    """The layer above: rows [N, G * M] of rows x [N, D], or a map, laid out in memory like x's.

    lut [G, C, K, M] float32 and table int8 alike, scale (no gradient) and bias [G * M] float32;
    the rest, and the gradients to x, thresholds, lut and tau, as in `tree_matmul`; bias gets the
    sum over rows. Raises HalutError on dtypes, shapes or devices that do not fit.
    """
    empty = table.new_empty(0, dtype=torch.uint8)
    check_layer(x, table, empty, scale, bias, None, torch.float32, geometry)
    check_tree_layer(x, split_dims, thresholds, table)
    check_table("lut", lut)
    check_tau(tau, thresholds.shape[0])
    check_same_device(x=x, lut=lut, tau=tau)
    if x.dtype not in INPUTS:
        raise HalutError(f"x must be float32, float16 or bfloat16 in training, got {x.dtype}")
    if lut.shape != table.shape or lut.dtype != torch.float32 or table.dtype != torch.int8:
        raise HalutError(
            f"lut must be float32 and table int8, of one shape, got {lut.dtype} "
            f"{list(lut.shape)} and {table.dtype} {list(table.shape)}"
        )
    numbers = geometry.numbers if geometry else []
    inputs = (x, split_dims, thresholds, lut, table, scale, bias, tau, ste_mix, numbers, flips)
    return torch.ops.halut.tree_train(*inputs)


@torch.library.custom_op("halut::tree_train", mutates_args=())
def _tree_train(
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    table: Tensor,
    scale: Tensor,
    bias: Tensor,
    tau: Tensor,
    ste_mix: float,
    geometry: Sequence[int],
    flips: bool = False,
) -> Tensor:
    shape = ConvGeometry.of_numbers(tuple(geometry))
    if x.shape[0] == 0:
        return empty_output(x, scale.shape[0], torch.float32, shape)
    empty = table.new_empty(0, dtype=torch.uint8)
    epilogue = (scale, bias, None, torch.float32, shape)
    return dispatch.run("tree_layer", x.device, x, split_dims, thresholds, table, empty, *epilogue)


@_tree_train.register_fake
def _(
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    table: Tensor,
    scale: Tensor,
    bias: Tensor,
    tau: Tensor,
    ste_mix: float,
    geometry: Sequence[int],
    flips: bool = False,
) -> Tensor:
    return empty_output(x, scale.shape[0], torch.float32, ConvGeometry.of_numbers(tuple(geometry)))


@torch.library.custom_op("halut::tree_train_backward", mutates_args=())
def _tree_train_backward(
    grad: Tensor,
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    tau: Tensor,
    ste_mix: float,
    tables: bool,
    geometry: Sequence[int],
    flips: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    G, _, K, M = lut.shape
    shape = ConvGeometry.of_numbers(tuple(geometry))
    rows = grad if shape is None else grad.permute(0, 2, 3, 1)
    rows = rows.to(torch.float32).reshape(-1, G * M)
    if ste_mix:
        encoder = dispatch.run(
            "tree_gradient",
            x.device,
            *(rows, x, split_dims, thresholds, lut, tau, ste_mix, shape, flips),
        )
    else:
        encoder = zero_gradient(x), torch.zeros_like(thresholds), torch.zeros_like(tau)
    if not tables:
        return *encoder, lut.new_empty(0), rows.sum(0)
    codes = dispatch.run("tree_encode", x.device, x, split_dims, thresholds, shape)
    dlut = dispatch.run("scatter_add", x.device, codes, rows, G, K)
    return *encoder, dlut, rows.sum(0)


@_tree_train_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    tau: Tensor,
    ste_mix: float,
    tables: bool,
    geometry: Sequence[int],
    flips: bool = False,
) -> tuple[Tensor, ...]:
    dlut = lut.new_empty(lut.shape if tables else (0,))
    encoder = empty_gradient(x), thresholds.new_empty(thresholds.shape), tau.new_empty(tau.shape)
    return *encoder, dlut, lut.new_empty(lut.shape[0] * lut.shape[3])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, split_dims, thresholds, lut, _, _, _, tau, ctx.ste_mix, ctx.geometry, ctx.flips = inputs
    ctx.save_for_backward(x, split_dims, thresholds, lut, tau)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need_x, _, need_thresholds, need_lut, _, _, need_bias, need_tau, *_ = ctx.needs_input_grad
    ste_mix = ctx.ste_mix if need_x or need_thresholds or need_tau else 0.0
    dx, dthresholds, dtau, dlut, dbias = torch.ops.halut.tree_train_backward(
        grad, *ctx.saved_tensors, ste_mix, need_lut, ctx.geometry, ctx.flips
    )
    return (
        dx if need_x else None,
        None,
        dthresholds if need_thresholds else None,
        dlut if need_lut else None,
        None,
        None,
        dbias if need_bias else None,
        dtau if need_tau else None,
        None,
        None,
        None,
    )


_tree_train.register_autograd(_backward, setup_context=_save)
