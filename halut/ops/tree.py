"""Hash trees: the encoder, and the table product with the `tree` estimator's gradient.

Per codebook a tree of depth d = log2 K: all nodes of level l test one input, its tap l, each node
against a threshold of its own; the node of level l with prefix p is threshold 2**l - 1 + p.
x > t goes right; code = 2 * code + bit (MADDNESS, Blalock and Guttag 2021).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.errors import HalutError
from halut.ops import dispatch, tree_gradient
from halut.ops.checks import (
    check_floating,
    check_prototypes,
    check_same_device,
    check_tables,
    check_tau,
)

ENTRIES = 1 << 17
"""Codes found at once, so that the intermediates of a chunk stay in cache."""


def tree_encode(taps: Tensor, thresholds: Tensor) -> Tensor:
    """Codes [N, GC] uint8 of taps [N, GC * depth] under heap-ordered thresholds [GC, K - 1].

    Column c * depth + l of `taps` is what level l of codebook c tests. N may be 0; NaN goes left.
    Not differentiable. Raises HalutError unless K is a power of two in 2..256 and shapes agree.
    """
    _check_tree(taps, thresholds)
    return torch.ops.halut.tree_encode(taps.detach(), thresholds.detach())


def tree_matmul(
    taps: Tensor, thresholds: Tensor, lut: Tensor, table: Tensor, tau: Tensor, relax: float = 1.0
) -> Tensor:
    """accumulate(tree_encode(taps, thresholds), table), [N, G * M], with a relaxed gradient.

    taps [N, G * C * depth], thresholds [G * C, K - 1], lut and table [G, C, K, M] (table: lut as
    the forward reads it, for example quantised; it gets no gradient), tau > 0 a scalar or
    [G * C]. With dE[n, c, k] = sum_m grad[n, m] lut[c, k, m] the backward gives

    - lut: scatter_add(codes, grad), straight through the quantisation;
    - taps, thresholds, tau: relax * dE through softmax_k of the leaves' scores, a leaf's score
      being the sum over its ancestors of +s (leaf to the right) or -s, with s = sign(x - t), whose
      gradient is that of tanh((x - t) / tau).

    Saves taps, codes, thresholds, lut and tau; gradients come in each input's dtype.
    Raises HalutError on dtypes or shapes that do not fit.
    """
    _check_tree(taps, thresholds)
    check_tables(lut, table, thresholds.shape[0])
    check_tau(tau, thresholds.shape[0])
    check_same_device(taps=taps, thresholds=thresholds, lut=lut, table=table, tau=tau)
    if lut.shape[2] != thresholds.shape[1] + 1:
        raise HalutError(f"lut has K = {lut.shape[2]}, thresholds K = {thresholds.shape[1] + 1}")
    return torch.ops.halut.tree_matmul(taps, thresholds, lut, table, tau, relax)[0]


def _check_tree(taps: Tensor, thresholds: Tensor) -> None:
    check_floating("taps", taps, 2)
    check_floating("thresholds", thresholds, 2)
    check_same_device(taps=taps, thresholds=thresholds)
    GC, K = thresholds.shape[0], thresholds.shape[1] + 1
    if K & (K - 1):
        raise HalutError(f"trees need K to be a power of two, got {K} - 1 thresholds per codebook")
    check_prototypes(K)
    depth = K.bit_length() - 1
    if GC == 0 or taps.shape[1] != GC * depth:
        raise HalutError(
            f"{GC} trees of depth {depth} need taps [N, {GC * depth}], got {list(taps.shape)}"
        )


def tree_encode_reference(taps: Tensor, thresholds: Tensor) -> Tensor:
    """Oracle of `tree_encode`: walks every tree from its root, level by level."""
    N, GC, depth = taps.shape[0], *_tree_shape(thresholds)
    x = taps.view(N, GC, depth)
    code = torch.zeros(N, GC, dtype=torch.long, device=taps.device)
    for level in range(depth):
        t = thresholds[:, 2**level - 1 :].gather(1, code.t()).t()
        code = 2 * code + (x[:, :, level] > t).long()
    return code.to(torch.uint8)


def tree_assign_reference(taps: Tensor, thresholds: Tensor, tau: Tensor) -> Tensor:
    """Oracle of the relaxation: soft leaves [N, GC, K], differentiable, forward of hard signs."""
    N, GC, depth = taps.shape[0], *_tree_shape(thresholds)
    x = taps.view(N, GC, depth)
    level = [node.bit_length() - 1 for node in range(1, 2**depth)]
    difference = x[:, :, level] - thresholds
    soft = torch.tanh(difference / tau.reshape(-1, 1))
    hard = (difference > 0).to(soft.dtype) * 2 - 1
    signs = soft + (hard - soft).detach()
    paths = soft.new_zeros(2**depth - 1, 2**depth)
    for leaf in range(2**depth):
        for depth_above in range(depth):
            prefix, right = leaf >> (depth - depth_above), (leaf >> (depth - 1 - depth_above)) & 1
            paths[2**depth_above - 1 + prefix, leaf] = 2 * right - 1
    return torch.softmax(signs @ paths, -1)


def tree_matmul_reference(
    taps: Tensor, thresholds: Tensor, lut: Tensor, table: Tensor, tau: Tensor, relax: float = 1.0
) -> Tensor:
    """Oracle of `tree_matmul`: one-hot codes, straight-through, einsum; autograd does the rest."""
    G, C, K, M = lut.shape
    soft = relax * tree_assign_reference(taps, thresholds, tau)
    hard = F.one_hot(tree_encode_reference(taps, thresholds).long(), K).to(soft.dtype)
    assign = (soft + (hard - soft).detach()).view(taps.shape[0], G, C, K)
    straight = lut + (table - lut).detach()
    # dL/dE reads the unquantised lut, dL/dlut the hard codes: two products, one value.
    encoder = torch.einsum("ngck,gckm->ngm", assign - assign.detach(), lut.detach())
    tables = torch.einsum("ngck,gckm->ngm", assign.detach(), straight)
    return (tables + encoder).reshape(taps.shape[0], G * M)


def _tree_shape(thresholds: Tensor) -> tuple[int, int]:
    """(GC, depth) of thresholds [GC, K - 1]."""
    return thresholds.shape[0], (thresholds.shape[1] + 1).bit_length() - 1


@torch.library.custom_op("halut::tree_encode", mutates_args=())
def _tree_encode(taps: Tensor, thresholds: Tensor) -> Tensor:
    return dispatch.run("tree_encode", taps.device, taps, thresholds)


@_tree_encode.register_fake
def _(taps: Tensor, thresholds: Tensor) -> Tensor:
    return taps.new_empty(taps.shape[0], thresholds.shape[0], dtype=torch.uint8)


@torch.library.custom_op("halut::tree_matmul", mutates_args=())
def _tree_matmul(
    taps: Tensor, thresholds: Tensor, lut: Tensor, table: Tensor, tau: Tensor, relax: float
) -> tuple[Tensor, Tensor]:
    codes = dispatch.run("tree_encode", taps.device, taps, thresholds)
    return dispatch.run("accumulate", taps.device, codes, table), codes


@_tree_matmul.register_fake
def _(taps, thresholds, lut, table, tau, relax):
    N = taps.shape[0]
    y = table.new_empty(N, table.shape[0] * table.shape[3])
    return y, taps.new_empty(N, thresholds.shape[0], dtype=torch.uint8)


@torch.library.custom_op("halut::tree_matmul_backward", mutates_args=())
def _tree_matmul_backward(
    grad: Tensor,
    taps: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    codes: Tensor,
    tau: Tensor,
    relax: float,
    tables: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    G, _, K, _ = lut.shape
    if relax:
        encoder = dispatch.run(
            "tree_gradient", taps.device, grad, taps, thresholds, lut, tau, relax
        )
    else:
        encoder = torch.zeros_like(taps), _zeros(thresholds), _zeros(tau)
    if not tables:
        return *encoder, lut.new_empty(0)
    dlut = dispatch.run("scatter_add", taps.device, codes, grad, G, K)
    return *encoder, dlut.to(lut.dtype)


def _zeros(value: Tensor) -> Tensor:
    return torch.zeros_like(value, memory_format=torch.contiguous_format)


@_tree_matmul_backward.register_fake
def _(grad, taps, thresholds, lut, codes, tau, relax, tables):
    dlut = lut.new_empty(lut.shape if tables else (0,))
    return torch.empty_like(taps), _zeros(thresholds), _zeros(tau), dlut


def _save(ctx, inputs, output) -> None:
    taps, thresholds, lut, _, tau, ctx.relax = inputs
    ctx.save_for_backward(taps, thresholds, lut, output[1], tau)


def _backward(ctx, grad: Tensor, _):
    taps, thresholds, lut, codes, tau = ctx.saved_tensors
    need_taps, need_thresholds, need_lut, _, need_tau, _ = ctx.needs_input_grad
    relax = ctx.relax if need_taps or need_thresholds or need_tau else 0.0
    dtaps, dthresholds, dtau, dlut = torch.ops.halut.tree_matmul_backward(
        grad, taps, thresholds, lut, codes, tau, relax, need_lut
    )
    return (
        dtaps if need_taps else None,
        dthresholds if need_thresholds else None,
        dlut if need_lut else None,
        None,
        dtau if need_tau else None,
        None,
    )


_tree_matmul.register_autograd(_backward, setup_context=_save)


@dispatch.implementation("tree_encode", "torch")
def tree_encode_torch(taps: Tensor, thresholds: Tensor) -> Tensor:
    """`tree_encode` level by level, in chunks of rows."""
    dtype = torch.promote_types(taps.dtype, thresholds.dtype)
    GC, depth = _tree_shape(thresholds)
    flat = thresholds.to(dtype).reshape(-1)
    root = torch.arange(0, flat.numel(), 2**depth - 1, dtype=torch.int32, device=taps.device)
    codes = taps.new_empty(taps.shape[0], GC, dtype=torch.uint8)
    step = max(1, ENTRIES // GC)
    for part, out in zip(taps.split(step), codes.split(step), strict=True):
        x = part.to(dtype).reshape(-1, GC, depth).permute(2, 0, 1).contiguous()
        code = torch.zeros_like(x[0], dtype=torch.int32)
        for level in range(depth):
            node = (code + (root + (2**level - 1))).view(-1)
            code = 2 * code + (x[level] > flat.index_select(0, node).view_as(code))
        out.copy_(code)
    return codes


dispatch.implementation("tree_gradient", "torch")(tree_gradient.tree_gradient_torch)
