"""Nearest prototype: the encoder, and the table product with the `soft` estimator's gradient.

code[n, c] = argmin_k dist(x[n, c], prototypes[c, k]) over the blocks of `halut.blocks.Blocks`,
dist the squared Euclidean (l2), the city-block (l1) or the largest (chebyshev) distance.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.blocks import Blocks
from halut.errors import HalutError
from halut.ops import dispatch, nearest_gradient
from halut.ops.checks import (
    check_floating,
    check_prototypes,
    check_same_device,
    check_tables,
    check_tau,
    chunk_rows,
    compute_dtype,
)
from halut.ops.distance import METRICS, block_columns, scores
from halut.ops.scratch import Scratch


def nearest_encode(x: Tensor, prototypes: Tensor, metric: str, groups: int = 1) -> Tensor:
    """Codes [N, GC] uint8 of rows x [N, groups * D]; prototypes [GC, K, V].

    Blocks are those of Blocks(D, GC / groups, groups), prototypes zero where a block is narrower.
    Ties take the lowest index. N may be 0; a row with NaN gets K - 1. Not differentiable.
    Raises HalutError on an unknown metric, or dtypes, shapes or devices that do not fit.
    """
    _check_nearest(x, prototypes, metric, groups)
    return torch.ops.halut.nearest_encode(x.detach(), prototypes.detach(), metric, groups)


def nearest_matmul(
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    table: Tensor,
    tau: Tensor,
    metric: str = "l2",
    groups: int = 1,
    relax: float = 1.0,
) -> Tensor:
    """accumulate(nearest_encode(x, prototypes), table), [N, G * M], with a relaxed gradient.

    x [N, G * D], prototypes [G * C, K, V], lut and table [G, C, K, M] (table: lut as the forward
    reads it; it gets no gradient), tau > 0 a scalar or [G * C], G = groups. With
    dE[n, c, k] = sum_m grad[n, m] lut[c, k, m] the backward gives

    - lut: scatter_add(codes, grad), straight through the quantisation;
    - x, prototypes, tau: relax * dE through softmax_k(-dist / tau), recomputed chunk by chunk.

    Prototypes in the padding of narrow blocks get no gradient. Gradients come in each input's
    dtype. Raises HalutError on dtypes or shapes that do not fit.
    """
    _check_nearest(x, prototypes, metric, groups)
    check_tables(lut, table, prototypes.shape[0])
    check_tau(tau, prototypes.shape[0])
    check_same_device(x=x, prototypes=prototypes, lut=lut, table=table, tau=tau)
    if lut.shape[0] != groups or lut.shape[2] != prototypes.shape[1]:
        raise HalutError(
            f"lut {list(lut.shape)} does not fit {groups} groups and prototypes "
            f"{list(prototypes.shape)}"
        )
    return torch.ops.halut.nearest_matmul(x, prototypes, lut, table, tau, metric, relax)[0]


def _check_nearest(x: Tensor, prototypes: Tensor, metric: str, groups: int) -> None:
    check_floating("x", x, 2)
    check_floating("prototypes", prototypes, 3)
    check_same_device(x=x, prototypes=prototypes)
    if metric not in METRICS:
        raise HalutError(f"unknown metric {metric!r}; choose one of: {', '.join(METRICS)}")
    GC, K, V = prototypes.shape
    check_prototypes(K)
    if groups < 1 or GC == 0 or GC % groups or x.shape[1] % groups:
        raise HalutError(
            f"{groups} groups divide neither x {list(x.shape)} nor prototypes "
            f"{list(prototypes.shape)}"
        )
    blocks = Blocks(x.shape[1] // groups, GC // groups, groups)
    if blocks.V != V:
        raise HalutError(f"prototypes must be [{GC}, K, {blocks.V}], got {list(prototypes.shape)}")


def nearest_assign_reference(
    x: Tensor, prototypes: Tensor, tau: Tensor, metric: str, groups: int
) -> tuple[Tensor, Tensor]:
    """Oracle: distances and soft assignment, both [N, GC, K], every difference written out."""
    GC = prototypes.shape[0]
    blocks = Blocks(x.shape[1] // groups, GC // groups, groups)
    difference = blocks.split(x)[:, :, None] - prototypes  # [N, GC, K, V]
    distance = {
        "l2": lambda: difference.square().sum(-1),
        "l1": lambda: difference.abs().sum(-1),
        "chebyshev": lambda: difference.abs().max(-1).values,
    }[metric]()
    return distance, torch.softmax(-distance / tau.reshape(-1, 1), -1)


def nearest_encode_reference(x: Tensor, prototypes: Tensor, metric: str, groups: int) -> Tensor:
    """Oracle of `nearest_encode`."""
    one = torch.ones((), dtype=x.dtype)
    distance, _ = nearest_assign_reference(x, prototypes, one, metric, groups)
    return distance.argmin(-1).to(torch.uint8)


def nearest_matmul_reference(
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    table: Tensor,
    tau: Tensor,
    metric: str = "l2",
    groups: int = 1,
    relax: float = 1.0,
) -> Tensor:
    """Oracle of `nearest_matmul`: one-hot codes, straight-through, einsum."""
    G, C, K, M = lut.shape
    N = x.shape[0]
    soft = relax * nearest_assign_reference(x, prototypes, tau, metric, groups)[1]
    codes = nearest_encode_reference(x, prototypes, metric, groups)
    hard = F.one_hot(codes.long(), K).to(soft.dtype).view(N, G, C, K)
    soft = soft.view(N, G, C, K)
    encoder = torch.einsum("ngck,gckm->ngm", soft - soft.detach(), lut.detach())
    tables = torch.einsum("ngck,gckm->ngm", hard, lut + (table - lut).detach())
    return (tables + encoder).reshape(N, G * M)


@torch.library.custom_op("halut::nearest_encode", mutates_args=())
def _nearest_encode(x: Tensor, prototypes: Tensor, metric: str, groups: int) -> Tensor:
    return dispatch.run("nearest_encode", x.device, x, prototypes, metric, groups)


@_nearest_encode.register_fake
def _(x, prototypes, metric, groups):
    return x.new_empty(x.shape[0], prototypes.shape[0], dtype=torch.uint8)


@torch.library.custom_op("halut::nearest_matmul", mutates_args=())
def _nearest_matmul(
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    table: Tensor,
    tau: Tensor,
    metric: str,
    relax: float,
) -> tuple[Tensor, Tensor]:
    codes = dispatch.run("nearest_encode", x.device, x, prototypes, metric, lut.shape[0])
    return dispatch.run("accumulate", x.device, codes, table), codes


@_nearest_matmul.register_fake
def _(x, prototypes, lut, table, tau, metric, relax):
    N = x.shape[0]
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
    relax: float,
    tables: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if relax:
        encoder = dispatch.run(
            "nearest_gradient", x.device, grad, x, prototypes, lut, tau, metric, relax
        )
    else:
        encoder = tuple(_zeros(value) for value in (x, prototypes, tau))
    if not tables:
        return *encoder, lut.new_empty(0)
    dlut = dispatch.run("scatter_add", x.device, codes, grad, lut.shape[0], lut.shape[2])
    return *encoder, dlut.to(lut.dtype)


def _zeros(value: Tensor) -> Tensor:
    return torch.zeros_like(value, memory_format=torch.contiguous_format)


@_nearest_matmul_backward.register_fake
def _(grad, x, prototypes, lut, codes, tau, metric, relax, tables):
    dlut = lut.new_empty(lut.shape if tables else (0,))
    return *(value.new_empty(value.shape) for value in (x, prototypes, tau)), dlut


def _save(ctx, inputs, output) -> None:
    x, prototypes, lut, _, tau, ctx.metric, ctx.relax = inputs
    ctx.save_for_backward(x, prototypes, lut, output[1], tau)


def _backward(ctx, grad: Tensor, _):
    x, prototypes, lut, codes, tau = ctx.saved_tensors
    need_x, need_prototypes, need_lut, _, need_tau, _, _ = ctx.needs_input_grad
    relax = ctx.relax if need_x or need_prototypes or need_tau else 0.0
    dx, dprototypes, dtau, dlut = torch.ops.halut.nearest_matmul_backward(
        grad, x, prototypes, lut, codes, tau, ctx.metric, relax, need_lut
    )
    return (
        dx if need_x else None,
        dprototypes if need_prototypes else None,
        dlut if need_lut else None,
        None,
        dtau if need_tau else None,
        None,
        None,
    )


_nearest_matmul.register_autograd(_backward, setup_context=_save)


@dispatch.implementation("nearest_encode", "torch")
def nearest_encode_torch(x: Tensor, prototypes: Tensor, metric: str, groups: int) -> Tensor:
    """`nearest_encode` in chunks of rows: distances, their maximum score, its first index."""
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
        # argmax along a middle dimension runs element by element; this is the same, vectorised.
        best = torch.eq(score, score.amax(1, keepdim=True), out=scratch.take(GC, K, n))
        out.copy_((K - best.mul_(rank).amax(1)).clamp_(max=K - 1).t())
    return codes


dispatch.implementation("nearest_gradient", "torch")(nearest_gradient.nearest_gradient_torch)
