"""The gradient of the `soft` estimator: softmax_k(-dist / tau), recomputed chunk by chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.blocks import Blocks
from halut.ops.checks import chunk_rows, compute_dtype
from halut.ops.distance import block_columns, scores

BUFFERS = 6
"""Arrays of GC * K values per row that a chunk holds at once, at most."""


def nearest_gradient_torch(
    grad: Tensor,
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    tau: Tensor,
    metric: str,
    relax: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (x, prototypes, tau) of relax * sum(dE * softmax_k(-dist / tau)).

    grad [N, G * M], x [N, G * D], prototypes [G * C, K, V], lut [G, C, K, M], tau a scalar or
    [G * C]. The workspace is bounded by `checks.workspace`.
    """
    G, C, K, M = lut.shape
    GC, _, V = prototypes.shape
    dtype = compute_dtype(lut.dtype)
    blocks = Blocks(x.shape[1] // G, C, G)
    inside = (blocks.columns() >= 0).to(x.device)  # [GC, V]
    p = prototypes.to(dtype)
    entries = (lut.to(dtype) * relax).reshape(G, C * K, M)
    inverse = (1 / tau.to(dtype)).expand(GC).view(GC, 1, 1)
    dx, dp = x.new_empty(x.shape), torch.zeros_like(p, memory_format=torch.contiguous_format)
    dtau = torch.zeros(GC, dtype=dtype, device=x.device)
    step = chunk_rows(GC * (BUFFERS * K + 3 * V) * p.element_size(), x.device)
    for start in range(0, x.shape[0], step):
        rows = slice(start, start + step)
        columns = block_columns(x[rows].to(dtype), GC, G)
        slopes, dinverse = _score_slopes(columns, p, entries, grad[rows].to(dtype), inverse, metric)
        dtau -= dinverse * inverse.view(GC).square()
        dcolumns = _pull(slopes, columns, p, dp, metric)
        flat = dcolumns.permute(2, 0, 1).reshape(-1, GC * V)
        dx[rows] = flat if blocks.even else flat[:, inside.view(-1)]
    dp *= inside[:, None]
    dtau = dtau.view(tau.shape) if tau.numel() == GC else dtau.sum().view(tau.shape)
    return dx, dp.to(prototypes.dtype), dtau.to(tau.dtype)


def _score_slopes(
    x: Tensor, p: Tensor, entries: Tensor, grad: Tensor, inverse: Tensor, metric: str
) -> tuple[Tensor, Tensor]:
    """Gradients of the scores -dist [GC, K, n] and, summed over rows, of 1 / tau [GC]."""
    G, _, M = entries.shape
    columns = grad.view(-1, G, M).permute(1, 2, 0)
    products = (entries * columns if M == 1 else torch.bmm(entries, columns)).view(
        p.shape[0], p.shape[1], -1
    )
    score = scores(x, p, metric)
    soft = torch.softmax(score * inverse, 1)
    slopes = torch._softmax_backward_data(products, soft, 1, soft.dtype)
    # Slopes sum to zero over k: the term of the score that was left out does not matter here.
    dinverse = score.mul_(slopes).sum((1, 2))
    return slopes.mul_(inverse), dinverse


def _pull(slopes: Tensor, x: Tensor, p: Tensor, dp: Tensor, metric: str) -> Tensor:
    """Gradient of the columns [GC, V, n], given that of the scores -dist; adds to dp."""
    if metric == "l2":
        # d(-|x - p|^2) = -2 (x - p) dx + 2 (x - p) dp, and the slopes sum to zero over k.
        dp += 2 * (torch.bmm(slopes, x.transpose(1, 2)) - p * slopes.sum(2, keepdim=True))
        return torch.bmm(p.transpose(1, 2), slopes).mul_(2)
    dx = torch.empty_like(x)
    largest = -scores(x, p, metric) if metric == "chebyshev" else None
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
