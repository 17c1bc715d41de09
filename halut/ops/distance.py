"""Distances between blocks of inputs and their prototypes, on arrays whose rows are contiguous."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.blocks import Blocks

METRICS = ("l2", "l1", "chebyshev")


def block_columns(x: Tensor, GC: int, groups: int) -> Tensor:
    """Rows x [n, groups * D] by codebook, [GC, V, n]: zero where a block is narrower than V."""
    blocks = Blocks(x.shape[1] // groups, GC // groups, groups)
    return blocks.split(x).permute(1, 2, 0).contiguous()


def scores(x: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    """-dist(x, prototypes) up to a term that is the same for all k: [GC, K, n].

    x [GC, V, n], prototypes [GC, K, V]. For l2, 2 x.p - p.p about the prototypes' mean, since the
    square of x is common to all k and distances do not change with the origin.
    """
    if metric == "l2":
        origin = prototypes.mean(1, keepdim=True)
        p = prototypes - origin
        squares = p.square().sum(-1, keepdim=True)
        return torch.baddbmm(squares, p, x - origin.transpose(1, 2), beta=-1, alpha=2)
    total: Tensor | None = None
    for v in range(x.shape[1]):
        gap = (x[:, v : v + 1] - prototypes[:, :, v : v + 1]).abs_()
        if total is None:
            total = gap
        else:
            total = total.add_(gap) if metric == "l1" else torch.maximum(total, gap, out=total)
    assert total is not None
    return total.neg_()
