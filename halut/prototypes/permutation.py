"""Order of the inputs of a product: inputs that go together share a codebook."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.ops.blocks import Blocks

ROWS = 4096  # rows per step: bounds their float64 copy


def correlated_order(rows: Tensor, blocks: Blocks) -> Tensor:
    """Columns of rows [N, groups * D] in the order they are cut into blocks, [groups * D] int64.

    Greedy, group by group: a block begins with the free input of the largest sum of absolute
    correlations with the other free ones, and takes the free input of the largest sum with those
    it has until it is full; the lowest column among equals. A constant input correlates with none.
    Time and memory: O(N D^2) and O(D^2) per group.
    """
    order = []
    for g in range(blocks.groups):
        first = g * blocks.D
        affinity = absolute_correlation(rows[:, first : first + blocks.D])
        widths = blocks.widths[: blocks.C]
        order.append(first + _greedy(affinity, widths))
    return torch.cat(order).to(rows.device)


def absolute_correlation(rows: Tensor) -> Tensor:
    """|Pearson correlation| of the columns of rows [N, D], float64 [D, D]; 0 on the diagonal."""
    mean = rows.mean(0, dtype=torch.float64)
    covariance = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for part in rows.split(ROWS):
        centered = part.double() - mean
        covariance += centered.T @ centered
    deviation = covariance.diagonal().sqrt()
    scale = torch.where(deviation > 0, 1 / deviation, torch.zeros_like(deviation))
    correlation = (covariance * scale[:, None] * scale).abs()
    return correlation.fill_diagonal_(0)


def _greedy(affinity: Tensor, widths: list[int]) -> Tensor:
    affinity = affinity.cpu()
    free = torch.ones(len(affinity), dtype=torch.bool)
    order: list[int] = []
    for width in widths:
        score = affinity[:, free].sum(1)
        together = torch.zeros(len(affinity), dtype=torch.float64)
        for _ in range(width):
            chosen = int(score.masked_fill(~free, -1.0).argmax())
            free[chosen] = False
            order.append(chosen)
            together += affinity[chosen]
            score = together
    return torch.tensor(order)
