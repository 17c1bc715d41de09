"""The gradient of the `soft` estimator: softmax_k(-dist / tau), recomputed chunk by chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.ops.blocks import Blocks
from halut.ops.core.checks import chunk_rows, compute_dtype
from halut.ops.core.scratch import Scratch
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.columns import rows_gradient_torch, rows_torch
from halut.ops.nearest.distance import block_columns, scores

BUFFERS = 5
"""Arrays of GC * K values per row that a chunk holds at once, at most, for l2."""


def nearest_gradient_torch(
    grad: Tensor,
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    tau: Tensor,
    metric: str,
    ste_mix: float,
    geometry: ConvGeometry | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (x, prototypes, tau) of ste_mix * sum(dE * softmax_k(-dist / tau)).

    grad [N, G * M], x rows [N, G * D] or a map, prototypes [G * C, K, V], lut [G, C, K, M], tau a
    scalar or [G * C].
    """
    rows = rows_torch(x, geometry)
    drows, dp, dtau = _row_gradients(grad, rows, prototypes, lut, tau, metric, ste_mix)
    return rows_gradient_torch(drows, x, geometry), dp, dtau


def _row_gradients(
    grad: Tensor,
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    tau: Tensor,
    metric: str,
    ste_mix: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for rows, in chunks; the workspace is bounded by `checks.workspace`."""
    G, C, K, M = lut.shape
    GC, _, V = prototypes.shape
    dtype = compute_dtype(lut.dtype)
    blocks = Blocks(x.shape[1] // G, C, G)
    inside = (blocks.columns() >= 0).to(x.device)  # [GC, V]
    p = prototypes.to(dtype)
    entries = (lut.to(dtype) * ste_mix).reshape(G, C * K, M)
    inverse = (1 / tau.to(dtype)).expand(GC).view(GC, 1, 1)
    dx, dp = x.new_empty(x.shape), torch.zeros_like(p, memory_format=torch.contiguous_format)
    dtau = torch.zeros(GC, dtype=dtype, device=x.device)
    row = GC * (BUFFERS * K + 3 * V)
    step = chunk_rows(row * p.element_size(), x.device)
    scratch = Scratch(row * min(step, x.shape[0]), dtype, x.device)
    for part, rows, out in zip(x.split(step), grad.split(step), dx.split(step), strict=True):
        scratch.reset()
        columns = block_columns(part, GC, G, scratch.take(GC, V, part.shape[0]))
        products = _products(entries, rows.to(dtype), scratch).view(GC, K, -1)
        slopes, dinverse = _score_slopes(columns, p, products, inverse, metric, scratch)
        dtau -= dinverse * inverse.view(GC).square()
        dcolumns = _pull(slopes, columns, p, dp, metric, scratch)
        if blocks.even:
            out.view(-1, GC, V).copy_(dcolumns.permute(2, 0, 1))
        else:
            out.copy_(dcolumns.view(GC * V, -1)[inside.view(-1)].t())
    dp *= inside[:, None]
    dtau = dtau.view(tau.shape) if tau.numel() == GC else dtau.sum().view(tau.shape)
    return dx, dp.to(prototypes.dtype), dtau.to(tau.dtype)


def _products(entries: Tensor, grad: Tensor, scratch: Scratch) -> Tensor:
    """entries [G, C * K, M] with grad [n, G * M], as [G, C * K, n]."""
    G, CK, M = entries.shape
    columns = grad.view(-1, G, M).permute(1, 2, 0)
    out = scratch.take(G, CK, grad.shape[0])
    if M == 1:
        return torch.mul(entries, columns, out=out)
    return torch.bmm(entries, columns, out=out)


def _score_slopes(
    x: Tensor, p: Tensor, products: Tensor, inverse: Tensor, metric: str, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """Gradients of the scores -dist [GC, K, n] and, summed over rows, of 1 / tau [GC]."""
    shape = products.shape
    score = scores(x, p, metric, scratch.take(*shape))
    scaled = torch.mul(score, inverse, out=scratch.take(*shape))
    soft = torch.softmax(scaled, 1, out=scratch.take(*shape))
    slopes = torch._softmax_backward_data(products, soft, 1, soft.dtype, grad_input=scaled)
    # Slopes sum to zero over k: the term of the score that was left out does not matter here.
    dinverse = score.mul_(slopes).sum((1, 2))
    return slopes.mul_(inverse), dinverse


def _pull(
    slopes: Tensor, x: Tensor, p: Tensor, dp: Tensor, metric: str, scratch: Scratch
) -> Tensor:
    """Gradient of the columns [GC, V, n], given that of the scores -dist; adds to dp."""
    dx = scratch.take(*x.shape)
    if metric == "l2":
        # d(-|x - p|^2) = -2 (x - p) dx + 2 (x - p) dp, and the slopes sum to zero over k.
        dp += 2 * (torch.bmm(slopes, x.transpose(1, 2)) - p * slopes.sum(2, keepdim=True))
        return torch.bmm(p.transpose(1, 2), slopes, out=dx).mul_(2)
    largest = None
    if metric == "chebyshev":
        largest = scores(x, p, metric, scratch.take(*slopes.shape)).neg_()
    for v in range(x.shape[1]):
        gap = x[:, v : v + 1] - p[:, :, v : v + 1]
        slope = slopes
        if largest is not None:  # only the first input at the largest distance has a slope
            slope = slopes * (gap.abs() == largest)
            slopes = slopes - slope
        signed = gap.sign_().mul_(slope)
        torch.sum(signed, 1, out=dx[:, v]).neg_()
        dp[:, :, v] += signed.sum(2)
    return dx
