"""Hash trees: the encoder, and the table product with the `tree` estimator's gradient.

Per codebook a tree of depth d = log2 K: all nodes of level l test one input, its split dimension l,
each node against a threshold of its own; the node of level l with prefix p is threshold
2**l - 1 + p.
x > t goes right; code = 2 * code + bit (MADDNESS, Blalock and Guttag 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.core.checks import (
    check_floating,
    check_prototypes,
    check_same_device,
    check_tables,
    check_tau,
)
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.columns import (
    check_columns,
    columns_torch,
    empty_gradient,
    row_count,
    zero_gradient,
)
from halut.ops.tree import gradient

ENTRIES = 1 << 17
"""Codes found at once, so that the intermediates of a chunk stay in cache."""


def tree_encode(
    x: Tensor, split_dims: Tensor, thresholds: Tensor, geometry: ConvGeometry | None = None
) -> Tensor:
    """Codes [N, GC] uint8 of x under heap-ordered thresholds [GC, K - 1].

    x holds rows [N, D], or with a geometry the map [B, Cin, H, W] whose im2col rows are meant;
    floating or int8, any strides. Column split_dims[c * depth + l] of the rows (int64 [GC * depth])
    is what level l of codebook c tests. N may be 0; NaN goes left. Not differentiable.
    Raises HalutError unless K is a power of two in 2..256 and shapes agree.
    """
    _check_tree(x, split_dims, thresholds, geometry)
    numbers = geometry.numbers if geometry else []
    return torch.ops.halut.tree_encode(x.detach(), split_dims, thresholds.detach(), numbers)


def tree_matmul(
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    table: Tensor,
    tau: Tensor,
    ste_mix: float = 1.0,
    geometry: ConvGeometry | None = None,
    flips: bool = False,
) -> Tensor:
    """accumulate(tree_encode(x, split_dims, thresholds, geometry), table), with a relaxed gradient.

    thresholds [G * C, K - 1], lut and table [G, C, K, M] (table: lut as the forward reads it, for
    example quantized; it gets no gradient), tau > 0 a scalar or [G * C] -> [N, G * M]. With
    dE[n, c, k] = sum_m grad[n, m] lut[c, k, m] the backward gives

    - lut: scatter_add(codes, grad), straight through the quantization;
    - x, thresholds, tau: ste_mix * dE through softmax_k of the leaves' scores, a leaf's score being
      the sum over its ancestors of +s (leaf to the right) or -s, with s = sign(x - t), whose
      gradient is that of tanh((x - t) / tau). With `flips` a row's path alone gets a gradient: the
      difference of dE between the leaves it reaches with s = 1 and with s = -1, times ds / 2.

    Saves x, codes, thresholds, lut and tau; gradients come in each input's dtype.
    Raises HalutError on dtypes or shapes that do not fit.
    """
    check_floating("x", x, 2 if geometry is None else 4)
    _check_tree(x, split_dims, thresholds, geometry)
    check_tables(lut, table, thresholds.shape[0])
    check_tau(tau, thresholds.shape[0])
    check_same_device(x=x, thresholds=thresholds, lut=lut, table=table, tau=tau)
    if lut.shape[2] != thresholds.shape[1] + 1:
        raise HalutError(f"lut has K = {lut.shape[2]}, thresholds K = {thresholds.shape[1] + 1}")
    numbers = geometry.numbers if geometry else []
    return torch.ops.halut.tree_matmul(
        x, split_dims, thresholds, lut, table, tau, ste_mix, numbers, flips
    )[0]


def tree_encoder_gradient(
    grad: Tensor,
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    tau: Tensor,
    ste_mix: float = 1.0,
    geometry: ConvGeometry | None = None,
    flips: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """What tree_matmul's backward gives to x, tau and thresholds, for grad [N, G * M]."""
    numbers = geometry.numbers if geometry else []
    unread = x.new_empty(0, dtype=torch.uint8)  # codes are for the table's gradient
    inputs = (grad, x, split_dims, thresholds, lut, unread, tau, ste_mix, False, numbers, flips)
    dx, dthresholds, dtau, _ = torch.ops.halut.tree_matmul_backward(*inputs)
    return dx, dtau, dthresholds


def tree_shape(thresholds: Tensor) -> tuple[int, int]:
    """(GC, depth) of thresholds [GC, K - 1]."""
    return thresholds.shape[0], (thresholds.shape[1] + 1).bit_length() - 1


def _check_tree(
    x: Tensor, split_dims: Tensor, thresholds: Tensor, geometry: ConvGeometry | None
) -> None:
    if not x.is_floating_point() and x.dtype != torch.int8:
        raise HalutError(f"x must be floating or int8, got {x.dtype}")
    check_columns(x, split_dims, geometry)
    check_floating("thresholds", thresholds, 2)
    check_same_device(x=x, thresholds=thresholds)
    GC, K = thresholds.shape[0], thresholds.shape[1] + 1
    if K & (K - 1):
        raise HalutError(f"trees need K to be a power of two, got {K} - 1 thresholds per codebook")
    check_prototypes(K)
    depth = K.bit_length() - 1
    if GC == 0 or split_dims.shape[0] != GC * depth:
        raise HalutError(
            f"{GC} trees of depth {depth} need split_dims [{GC * depth}], "
            f"got {list(split_dims.shape)}"
        )


@torch.library.custom_op("halut::tree_encode", mutates_args=())
def _tree_encode(
    x: Tensor, split_dims: Tensor, thresholds: Tensor, geometry: Sequence[int]
) -> Tensor:
    shape = ConvGeometry.of_numbers(tuple(geometry))
    return dispatch.run("tree_encode", x.device, x, split_dims, thresholds, shape)


@_tree_encode.register_fake
def _(x: Tensor, split_dims: Tensor, thresholds: Tensor, geometry: Sequence[int]) -> Tensor:
    N = row_count(x, ConvGeometry.of_numbers(tuple(geometry)))
    return x.new_empty(N, thresholds.shape[0], dtype=torch.uint8)


@torch.library.custom_op("halut::tree_matmul", mutates_args=())
def _tree_matmul(
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    table: Tensor,
    tau: Tensor,
    ste_mix: float,
    geometry: Sequence[int],
    flips: bool = False,
) -> tuple[Tensor, Tensor]:
    shape = ConvGeometry.of_numbers(tuple(geometry))
    codes = dispatch.run("tree_encode", x.device, x, split_dims, thresholds, shape)
    return dispatch.run("accumulate", x.device, codes, table), codes


@_tree_matmul.register_fake
def _(
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    table: Tensor,
    tau: Tensor,
    ste_mix: float,
    geometry: Sequence[int],
    flips: bool = False,
) -> tuple[Tensor, ...]:
    N = row_count(x, ConvGeometry.of_numbers(tuple(geometry)))
    y = table.new_empty(N, table.shape[0] * table.shape[3])
    return y, x.new_empty(N, thresholds.shape[0], dtype=torch.uint8)


@torch.library.custom_op("halut::tree_matmul_backward", mutates_args=())
def _tree_matmul_backward(
    grad: Tensor,
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    codes: Tensor,
    tau: Tensor,
    ste_mix: float,
    tables: bool,
    geometry: Sequence[int],
    flips: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    G, _, K, _ = lut.shape
    shape = ConvGeometry.of_numbers(tuple(geometry))
    if ste_mix:
        encoder = dispatch.run(
            "tree_gradient",
            x.device,
            *(grad, x, split_dims, thresholds, lut, tau, ste_mix, shape, flips),
        )
    else:
        encoder = zero_gradient(x), _zeros(thresholds), _zeros(tau)
    if not tables:
        return *encoder, lut.new_empty(0)
    dlut = dispatch.run("scatter_add", x.device, codes, grad, G, K)
    return *encoder, dlut.to(lut.dtype)


def _zeros(value: Tensor) -> Tensor:
    return torch.zeros_like(value, memory_format=torch.contiguous_format)


@_tree_matmul_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    codes: Tensor,
    tau: Tensor,
    ste_mix: float,
    tables: bool,
    geometry: Sequence[int],
    flips: bool = False,
) -> tuple[Tensor, ...]:
    dlut = lut.new_empty(lut.shape if tables else (0,))
    return empty_gradient(x), _zeros(thresholds), _zeros(tau), dlut


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, split_dims, thresholds, lut, _, tau, ctx.ste_mix, ctx.geometry, ctx.flips = inputs
    ctx.save_for_backward(x, split_dims, thresholds, lut, output[1], tau)


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, split_dims, thresholds, lut, codes, tau = ctx.saved_tensors
    need_x, _, need_thresholds, need_lut, _, need_tau, *_ = ctx.needs_input_grad
    ste_mix = ctx.ste_mix if need_x or need_thresholds or need_tau else 0.0
    dx, dthresholds, dtau, dlut = torch.ops.halut.tree_matmul_backward(
        *(grad, x, split_dims, thresholds, lut, codes, tau, ste_mix, need_lut, ctx.geometry),
        ctx.flips,
    )
    return (
        dx if need_x else None,
        None,
        dthresholds if need_thresholds else None,
        dlut if need_lut else None,
        None,
        dtau if need_tau else None,
        None,
        None,
        None,
    )


_tree_matmul.register_autograd(_backward, setup_context=_save)


@dispatch.implementation("tree_encode", "torch")
def tree_encode_torch(
    x: Tensor, split_dims: Tensor, thresholds: Tensor, geometry: ConvGeometry | None
) -> Tensor:
    """`tree_encode` level by level, in chunks of rows of the gathered columns."""
    columns = columns_torch(x, split_dims, geometry)
    dtype = torch.promote_types(x.dtype, thresholds.dtype)
    GC, depth = tree_shape(thresholds)
    flat = thresholds.to(dtype).reshape(-1)
    root = torch.arange(0, flat.numel(), 2**depth - 1, dtype=torch.int32, device=x.device)
    codes = x.new_empty(columns.shape[0], GC, dtype=torch.uint8)
    step = max(1, ENTRIES // GC)
    for part, out in zip(columns.split(step), codes.split(step), strict=True):
        tested = part.to(dtype).reshape(-1, GC, depth).permute(2, 0, 1).contiguous()
        code = torch.zeros_like(tested[0], dtype=torch.int32)
        for level in range(depth):
            node = (code + (root + (2**level - 1))).view(-1)
            code = 2 * code + (tested[level] > flat.index_select(0, node).view_as(code))
        out.copy_(code)
    return codes


dispatch.implementation("tree_gradient", "torch")(gradient.tree_gradient_torch)
