"""Distances between blocks of inputs and their prototypes, on arrays whose rows are contiguous."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.ops.blocks import Blocks

METRICS = ("l2", "l1", "chebyshev")


def block_columns(x: Tensor, GC: int, groups: int, out: Tensor) -> Tensor:
    """Rows x [n, groups * D] by codebook into out [GC, V, n], zero where a block is narrower."""
    blocks = Blocks(x.shape[1] // groups, GC // groups, groups)
    return out.copy_(blocks.split(x).permute(1, 2, 0))


def scores(x: Tensor, prototypes: Tensor, metric: str, out: Tensor) -> Tensor:
    """-dist(x, prototypes) up to a term that is the same for all k, into out [GC, K, n].

    x [GC, V, n], prototypes [GC, K, V]. For l2, 2 x.p - p.p about the first prototype, since the
    square of x is common to all k and distances do not change with the origin; a prototype, not
    their mean, keeps what is exact in the dtype exact.
    """
    if metric == "l2":
        origin = prototypes[:, :1]
        p = prototypes - origin
        squares = p.square().sum(-1, keepdim=True)
        centered = x - origin.transpose(1, 2)
        return torch.baddbmm(squares, p, centered, beta=-1, alpha=2, out=out)
    out.zero_()
    for v in range(x.shape[1]):
        gap = (x[:, v : v + 1] - prototypes[:, :, v : v + 1]).abs_()
        if metric == "l1":
            out.add_(gap)
        else:
            torch.maximum(out, gap, out=out)
    return out.neg_()
