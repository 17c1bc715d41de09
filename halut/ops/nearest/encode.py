"""Nearest prototype: the encoder, and the table product with the `soft` estimator's gradient.

code[n, c] = argmin_k dist(x[n, c], prototypes[c, k]) over the blocks of `halut.ops.blocks.Blocks`,
dist the squared Euclidean (l2), the city-block (l1) or the largest (chebyshev) distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.blocks import Blocks
from halut.ops.core import dispatch
from halut.ops.core.checks import (
    check_floating,
    check_prototypes,
    check_same_device,
    check_tables,
    check_tau,
    chunk_rows,
    compute_dtype,
)
from halut.ops.core.scratch import Scratch
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.columns import (
    check_source,
    column_count,
    empty_gradient,
    row_count,
    rows_torch,
    zero_gradient,
)
from halut.ops.nearest import gradient
from halut.ops.nearest.distance import METRICS, block_columns, scores


def nearest_encode(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int = 1,
    geometry: ConvGeometry | None = None,
) -> Tensor:
    """Codes [N, GC] uint8 of x; prototypes [GC, K, V] floating.

    x holds rows [N, groups * D], or with a geometry the map [B, Cin, H, W] whose im2col rows are
    meant; floating or int8, any strides. Blocks are those of Blocks(D, GC / groups, groups),
    prototypes zero where a block is narrower. Ties take the lowest index, a row with NaN K - 1;
    N may be 0. Distances are rounded as the implementation takes them: where two are equal up to
    that, implementations may differ (levels of the compiled one do not). Not differentiable.
    Raises HalutError on an unknown metric, or dtypes, shapes or devices that do not fit.
    """
    if not x.is_floating_point() and x.dtype != torch.int8:
        raise HalutError(f"x must be floating or int8, got {x.dtype}")
    _check_nearest(x, prototypes, metric, groups, geometry)
    numbers = geometry.numbers if geometry else []
    return torch.ops.halut.nearest_encode(x.detach(), prototypes.detach(), metric, groups, numbers)


def nearest_matmul(
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    table: Tensor,
    tau: Tensor,
    metric: str = "l2",
    groups: int = 1,
    ste_mix: float = 1.0,
    geometry: ConvGeometry | None = None,
) -> Tensor:
    """accumulate(nearest_encode(x, ...), table), [N, G * M], with a relaxed gradient.

    x rows [N, G * D], or a map with its geometry; prototypes [G * C, K, V], lut and table
    [G, C, K, M] (table: lut as the forward reads it; it gets no gradient), tau > 0 a scalar or
    [G * C], G = groups. With
    dE[n, c, k] = sum_m grad[n, m] lut[c, k, m] the backward gives

    - lut: scatter_add(codes, grad), straight through the quantization;
    - x, prototypes, tau: ste_mix * dE through softmax_k(-dist / tau), recomputed chunk by chunk.

    Prototypes in the padding of narrow blocks get no gradient. Gradients come in each input's
    dtype; x, codes, prototypes, lut and tau are saved. Raises HalutError on dtypes or shapes that
    do not fit.
    """
    check_floating("x", x, 2 if geometry is None else 4)
    _check_nearest(x, prototypes, metric, groups, geometry)
    check_tables(lut, table, prototypes.shape[0])
    check_tau(tau, prototypes.shape[0])
    check_same_device(x=x, prototypes=prototypes, lut=lut, table=table, tau=tau)
    if lut.shape[0] != groups or lut.shape[2] != prototypes.shape[1]:
        raise HalutError(
            f"lut {list(lut.shape)} does not fit {groups} groups and prototypes "
            f"{list(prototypes.shape)}"
        )
    numbers = geometry.numbers if geometry else []
    arguments = (x, prototypes, lut, table, tau, metric, ste_mix, numbers)
    return torch.ops.halut.nearest_matmul(*arguments)[0]


def nearest_encoder_gradient(
    grad: Tensor,
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    tau: Tensor,
    metric: str,
    ste_mix: float = 1.0,
    geometry: ConvGeometry | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What nearest_matmul's backward gives to x, tau and prototypes, for grad [N, G * M]."""
    numbers = geometry.numbers if geometry else []
    unread = x.new_empty(0, dtype=torch.uint8)  # codes are for the table's gradient
    inputs = (grad, x, prototypes, lut, unread, tau, metric, ste_mix, False, numbers)
    dx, dprototypes, dtau, _ = torch.ops.halut.nearest_matmul_backward(*inputs)
    return dx, dtau, dprototypes


def _check_nearest(
    x: Tensor, prototypes: Tensor, metric: str, groups: int, geometry: ConvGeometry | None
) -> None:
    check_source(x, geometry)
    check_floating("prototypes", prototypes, 3)
    check_same_device(x=x, prototypes=prototypes)
    if metric not in METRICS:
        raise HalutError(f"unknown metric {metric!r}; choose one of: {', '.join(METRICS)}")
    GC, K, V = prototypes.shape
    check_prototypes(K)
    columns = column_count(x, geometry)
    if groups < 1 or GC == 0 or GC % groups or columns % groups:
        raise HalutError(
            f"{groups} groups divide neither x {list(x.shape)} nor prototypes "
            f"{list(prototypes.shape)}"
        )
    blocks = Blocks(columns // groups, GC // groups, groups)
    if blocks.V != V:
        raise HalutError(f"prototypes must be [{GC}, K, {blocks.V}], got {list(prototypes.shape)}")


@torch.library.custom_op("halut::nearest_encode", mutates_args=())
def _nearest_encode(
    x: Tensor, prototypes: Tensor, metric: str, groups: int, geometry: Sequence[int]
) -> Tensor:
    shape = ConvGeometry.of_numbers(tuple(geometry))
    return dispatch.run("nearest_encode", x.device, x, prototypes, metric, groups, shape)


@_nearest_encode.register_fake
def _(x: Tensor, prototypes: Tensor, metric: str, groups: int, geometry: Sequence[int]) -> Tensor:
    N = row_count(x, ConvGeometry.of_numbers(tuple(geometry)))
    return x.new_empty(N, prototypes.shape[0], dtype=torch.uint8)


@torch.library.custom_op("halut::nearest_matmul", mutates_args=())
def _nearest_matmul(
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    table: Tensor,
    tau: Tensor,
    metric: str,
    ste_mix: float,
    geometry: Sequence[int],
) -> tuple[Tensor, Tensor]:
    shape = ConvGeometry.of_numbers(tuple(geometry))
    codes = dispatch.run("nearest_encode", x.device, x, prototypes, metric, lut.shape[0], shape)
    return dispatch.run("accumulate", x.device, codes, table), codes


@_nearest_matmul.register_fake
def _(
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    table: Tensor,
    tau: Tensor,
    metric: str,
    ste_mix: float,
    geometry: Sequence[int],
) -> tuple[Tensor, ...]:
    N = row_count(x, ConvGeometry.of_numbers(tuple(geometry)))
    y = table.new_empty(N, table.shape[0] * table.shape[3])
    return y, x.new_empty(N, prototypes.shape[0], dtype=torch.uint8)


@torch.library.custom_op("halut::nearest_matmul_backward", mutates_args=())
def _nearest_matmul_backward(
    grad: Tensor,
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    codes: Tensor,
    tau: Tensor,
    metric: str,
    ste_mix: float,
    tables: bool,
    geometry: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if ste_mix:
        arguments = (
            grad,
            x,
            prototypes,
            lut,
            tau,
            metric,
            ste_mix,
            ConvGeometry.of_numbers(tuple(geometry)),
        )
        encoder = dispatch.run("nearest_gradient", x.device, *arguments)
    else:
        encoder = zero_gradient(x), _zeros(prototypes), _zeros(tau)
    if not tables:
        return *encoder, lut.new_empty(0)
    dlut = dispatch.run("scatter_add", x.device, codes, grad, lut.shape[0], lut.shape[2])
    return *encoder, dlut.to(lut.dtype)


def _zeros(value: Tensor) -> Tensor:
    return torch.zeros_like(value, memory_format=torch.contiguous_format)


@_nearest_matmul_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    codes: Tensor,
    tau: Tensor,
    metric: str,
    ste_mix: float,
    tables: bool,
    geometry: Sequence[int],
) -> tuple[Tensor, ...]:
    dlut = lut.new_empty(lut.shape if tables else (0,))
    return empty_gradient(x), _zeros(prototypes), _zeros(tau), dlut


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, prototypes, lut, _, tau, ctx.metric, ctx.ste_mix, ctx.geometry = inputs
    ctx.save_for_backward(x, prototypes, lut, output[1], tau)


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, prototypes, lut, codes, tau = ctx.saved_tensors
    need_x, need_prototypes, need_lut, _, need_tau, *_ = ctx.needs_input_grad
    ste_mix = ctx.ste_mix if need_x or need_prototypes or need_tau else 0.0
    dx, dprototypes, dtau, dlut = torch.ops.halut.nearest_matmul_backward(
        grad, x, prototypes, lut, codes, tau, ctx.metric, ste_mix, need_lut, ctx.geometry
    )
    return (
        dx if need_x else None,
        dprototypes if need_prototypes else None,
        dlut if need_lut else None,
        None,
        dtau if need_tau else None,
        *(None, None, None),
    )


_nearest_matmul.register_autograd(_backward, setup_context=_save)


@dispatch.implementation("nearest_encode", "torch")
def nearest_encode_torch(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int,
    geometry: ConvGeometry | None = None,
) -> Tensor:
    """`nearest_encode` in chunks of rows: distances, their maximum score, its first index."""
    x = rows_torch(x, geometry)
    GC, K, V = prototypes.shape
    dtype = compute_dtype(torch.promote_types(x.dtype, prototypes.dtype))
    codes = x.new_empty(x.shape[0], GC, dtype=torch.uint8)
    rank = torch.arange(K, 0, -1, dtype=dtype, device=x.device).view(1, K, 1)
    p = prototypes.to(dtype)
    row = GC * (2 * K + 2 * V)
    step = chunk_rows(row * p.element_size(), x.device)
    scratch = Scratch(row * min(step, x.shape[0]), dtype, x.device)
    for part, out in zip(x.split(step), codes.split(step), strict=True):
        scratch.reset()
        n = part.shape[0]
        columns = block_columns(part, GC, groups, scratch.take(GC, V, n))
        score = scores(columns, p, metric, scratch.take(GC, K, n))
        # argmax along a middle dimension runs element by element; this is the same, vectorized.
        best = torch.eq(score, score.amax(1, keepdim=True), out=scratch.take(GC, K, n))
        out.copy_((K - best.mul_(rank).amax(1)).clamp_(max=K - 1).t())
    return codes


dispatch.implementation("nearest_gradient", "torch")(gradient.nearest_gradient_torch)
