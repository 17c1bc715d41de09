r"""The gradients of the `tree` and `flip` estimators, in closed form and without a softmax.

The scores are sums of signs, so the softmax over leaves factorizes: a leaf's weight is the product
over its ancestors of (1 + g s)/2 to the right and (1 - g s)/2 to the left, s = +-1, g = tanh(1),
since every subtree of one depth has the same normalizer, (e + 1/e)^height. With P the product down
to a node, m_left and m_right the weighted means of dE under its two children, S = (m_right +
m_left)/2, D = (m_right - m_left)/2 and E the mean at the root,

    m = S + g s D,    dL/ds = P * (D + g s (S - E)),

where softmax's own backward, a * (dE - E), summed over the two subtrees gives the second formula.

The `flip` estimator is the finite difference of the answer over the nodes that a row passes: what
the loss would change if this one test came out the other way and all tests below were taken as x
takes them. That is g = 1, where m is the value of the leaf that is reached below a node and P is 1
on the path and 0 beside it, and

    dL/ds = P * D.

S and D of the lowest level are linear in the lut: one matrix product yields them. The rest is a
pass up the tree and a pass over its nodes, on arrays [G, nodes, C, n] whose rows are contiguous;
with nodes in bit-reversed order, left and right children are the two halves of the level below.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from halut.ops.core.checks import chunk_rows, compute_dtype
from halut.ops.core.scratch import Scratch
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.columns import columns_gradient_torch, columns_torch

GAIN = math.tanh(1.0)
"""g of `tree`: by how much a sign moves the weight from one child to the other."""

BUFFERS = 7
"""Arrays of G * C * K values per row that a chunk holds at once, at most."""


def tree_gradient_torch(
    grad: Tensor,
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    tau: Tensor,
    ste_mix: float,
    geometry: ConvGeometry | None,
    flips: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (x, thresholds, tau) of ste_mix * sum(dE * assign); those of `flip` if `flips`.

    grad [N, G * M], x rows or a map, split_dims [G * C * depth], thresholds [G * C, K - 1],
    lut [G, C, K, M], tau a scalar or [G * C].
    """
    columns = columns_torch(x, split_dims, geometry)
    dcolumns, dt, dtau = _column_gradients(grad, columns, thresholds, lut, tau, ste_mix, flips)
    return columns_gradient_torch(dcolumns, split_dims, x, geometry), dt, dtau


def _column_gradients(
    grad: Tensor,
    inputs: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    tau: Tensor,
    ste_mix: float,
    flips: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for the gathered columns `inputs` [N, G * C * depth], in chunks of rows.

    The workspace is bounded by `checks.workspace`.
    """
    G, C, K, _ = lut.shape
    depth, N = K.bit_length() - 1, inputs.shape[0]
    dtype = compute_dtype(lut.dtype)
    order = _node_order(depth, lut.device)
    scale = (2.0 / tau.to(dtype)).expand(G * C).view(G, 1, C, 1)
    t = thresholds.to(dtype).view(G, C, K - 1)[:, :, order].transpose(1, 2).unsqueeze(-1)
    # Differences x - t are all that counts: measured from their level's mean they keep precision.
    origin = torch.cat([_nodes(t, level).mean(1, keepdim=True) for level in range(depth)], 1)
    levels = [node.bit_length() - 1 for node in range(1, K)]
    t = ((t - origin[:, levels]) * scale).contiguous()  # [G, K - 1, C, 1]
    x = inputs.reshape(N, G, C, depth).permute(1, 3, 2, 0)
    pairs = _pairs(lut.to(dtype), ste_mix)
    dx = torch.empty(G, depth, C, N, dtype=dtype, device=lut.device)
    dt = torch.zeros_like(t)
    dtau = torch.zeros(G, C, dtype=dtype, device=lut.device)
    step = min(chunk_rows(BUFFERS * G * C * K * t.element_size(), lut.device), max(N, 1))
    scratch = Scratch(BUFFERS * G * C * K * step, dtype, lut.device)
    for start in range(0, N, step):
        rows = slice(start, min(start + step, N))
        scratch.reset()
        scaled = scratch.take(G, depth, C, rows.stop - start)
        torch.sub(x[..., rows], origin, out=scaled).mul_(scale)
        products = _products(pairs, grad[rows].to(dtype), scratch)
        sums, differences = products.chunk(2, 1)
        slopes = _node_slopes(scaled, t, sums, differences, scratch, flips)
        for level in range(depth):
            torch.sum(_nodes(slopes, level), 1, out=dx[:, level, :, rows])
        dt -= slopes.sum(-1, keepdim=True)
        dtau += scaled.mul_(dx[..., rows]).sum((1, 3))
    dtau = -2 * (dtau + (t * dt).sum((1, 3))).view(-1) / tau.to(dtype)
    dtaps = torch.empty_like(inputs)  # strided like the split_dims, which may lie column by column
    dtaps.view(N, G, C, depth).copy_(dx.mul_(2 * scale).permute(3, 0, 2, 1))
    dt = (dt * (2 * scale)).squeeze(-1).transpose(1, 2)[:, :, torch.argsort(order)]
    dtau = dtau.view(tau.shape) if tau.numel() == G * C else dtau.sum().view(tau.shape)
    dt = dt.reshape(G * C, K - 1).to(thresholds.dtype)
    return dtaps, dt.contiguous(), dtau.to(tau.dtype)


def _node_order(depth: int, device: torch.device) -> Tensor:
    """Heap indices of the K - 1 nodes, the nodes of each level in bit-reversed order."""
    order = [2**level - 1 + p for level in range(depth) for p in _bit_reversed(level)]
    return torch.tensor(order, device=device)


def _bit_reversed(bits: int) -> list[int]:
    order = [0]
    for bit in reversed(range(bits)):
        order += [p + 2**bit for p in order]
    return order


def _nodes(array: Tensor, level: int) -> Tensor:
    """The nodes of one level in an array [G, K - 1, C, n]."""
    return array[:, 2**level - 1 : 2 ** (level + 1) - 1]


def _pairs(lut: Tensor, ste_mix: float) -> Tensor:
    """Sums, then differences, of the leaves under each lowest node: [G, K * C, M].

    The factor 2**-depth makes up for the halves left out on the way up and down the tree.
    """
    G, C, K, M = lut.shape
    leaves = lut[:, :, _bit_reversed(K.bit_length() - 1)].transpose(1, 2)
    left, right = leaves.chunk(2, 1)
    return torch.cat([right + left, right - left], 1).mul_(ste_mix / K).view(G, K * C, M)


def _products(pairs: Tensor, grad: Tensor, scratch: Scratch) -> Tensor:
    """pairs [G, K * C, M] with grad [n, G * M], as [G, K * C, n]."""
    G, KC, M = pairs.shape
    columns = grad.view(-1, G, M).permute(1, 2, 0)
    out = scratch.take(G, KC, grad.shape[0])
    if M == 1:
        return torch.mul(pairs, columns, out=out)
    if G == 1:
        torch.mm(pairs[0], columns[0], out=out[0])
        return out
    return torch.bmm(pairs, columns, out=out)


def _node_slopes(
    x: Tensor, t: Tensor, S: Tensor, D: Tensor, scratch: Scratch, flips: bool
) -> Tensor:
    """dL/ds * sigmoid'(x - t) of all nodes, [G, K - 1, C, n]; overwrites S and D.

    x [G, depth, C, n] and t [G, K - 1, C, 1] in units of tau / 2; S, D [G, K / 2 * C, n].
    """
    G, depth, C, n = x.shape
    slopes = scratch.take(G, t.shape[1], C, n)
    for level in range(depth):
        torch.sub(_nodes(t, level), x[:, level : level + 1], out=_nodes(slopes, level))
    # -g s: copysign gives +g at t - x = +0, where the test x > t fails.
    gain = x.new_tensor(1.0 if flips else GAIN)
    signs = torch.copysign(gain, slopes, out=scratch.take(*slopes.shape))
    weights = _weights(signs, depth, scratch)
    sums, differences = [S.view(G, -1, C, n)], [D.view(G, -1, C, n)]
    for level in reversed(range(depth)):
        S, D = sums[0], differences[0]
        mean = torch.addcmul(S, D, _nodes(signs, level), value=-1, out=scratch.take(*S.shape))
        if level:
            left, right = mean.chunk(2, 1)
            sums.insert(0, torch.add(right, left, out=scratch.take(*left.shape)))
            differences.insert(0, torch.sub(right, left, out=scratch.take(*left.shape)))
    for level in range(depth):
        # mean is that of the root, twice as large at each level below it as at the next.
        score = differences[level]
        if not flips:
            above = sums[level].sub_(mean, alpha=2.0**-level)
            score = score.addcmul_(above, _nodes(signs, level), value=-1)
        _nodes(weights, level).mul_(score)
    slopes.sigmoid_()
    slopes.addcmul_(slopes, slopes, value=-1)
    return slopes.mul_(weights)


def _weights(signs: Tensor, depth: int, scratch: Scratch) -> Tensor:
    """Weight of each node, times two to its level, [G, K - 1, C, n], of signs -g s."""
    weights = scratch.take(*signs.shape)
    weights[:, 0] = 1
    for level in range(depth - 1):
        parent, sign = _nodes(weights, level), _nodes(signs, level)
        left, right = _nodes(weights, level + 1).chunk(2, 1)
        torch.addcmul(parent, parent, sign, out=left)
        torch.addcmul(parent, parent, sign, value=-1, out=right)
    return weights
