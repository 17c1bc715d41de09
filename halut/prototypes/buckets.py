"""Statistics of the rows in each bucket, for all codebooks at once."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.ops.blocks import Blocks

ROWS = 4096  # rows per step: bounds the float64 copy of the blocks


def bucket_means(rows: Tensor, codes: Tensor, blocks: Blocks, empty: Tensor) -> Tensor:
    """Mean inputs [GC, K, V] of the rows [N, groups * D] with each code; codes [N, GC].

    Summed in float64. A bucket without rows takes its vector from `empty` [GC, K, V]. Stages after
    the first have the means of what those before leave of their rows.
    """
    if blocks.stages > 1:
        return _stage_means(rows, codes, blocks, empty)
    GC, K, V = empty.shape
    offsets = torch.arange(GC, device=rows.device) * K
    sums = torch.zeros(GC * K, V, dtype=torch.float64, device=rows.device)
    for x, code in zip(rows.split(ROWS), codes.split(ROWS), strict=True):
        index = (code.long() + offsets).reshape(-1, 1).expand(-1, V)
        sums.scatter_add_(0, index, blocks.split(x).double().reshape(-1, V))
    sizes = bucket_sizes(codes, K)[:, :, None]
    means = sums.view(GC, K, V) / sizes.clamp(min=1)
    return torch.where(sizes > 0, means.to(empty.dtype), empty)


def _stage_means(rows: Tensor, codes: Tensor, blocks: Blocks, empty: Tensor) -> Tensor:
    one, shape = blocks.of_stage, (blocks.groups, blocks.stages, -1, *empty.shape[1:])
    stage_codes = codes.view(len(codes), *shape[:3])
    means = []
    for r, start in enumerate(empty.view(shape).unbind(1)):
        code = stage_codes[:, :, r].flatten(1)
        means.append(bucket_means(rows, code, one, start.flatten(0, 1)))
        rows = rows - reconstruct(code, means[-1], one)
    return torch.stack([m.view(blocks.groups, -1, *m.shape[1:]) for m in means], 1).view_as(empty)


def bucket_sizes(codes: Tensor, K: int) -> Tensor:
    """Rows [GC, K] int64 with each code."""
    GC = codes.shape[1]
    index = codes.long() + torch.arange(GC, device=codes.device) * K
    return torch.bincount(index.reshape(-1), minlength=GC * K).view(GC, K)


def reconstruct(codes: Tensor, prototypes: Tensor, blocks: Blocks) -> Tensor:
    """Rows [N, groups * D] whose every block is its prototype; prototypes [GC, K, V].

    With several stages, the sum of its prototypes.
    """
    books = torch.arange(blocks.total, device=codes.device)
    padded = prototypes[books, codes.long()]  # [N, GC, V]
    if blocks.stages > 1:
        padded = padded.unflatten(1, (blocks.groups, blocks.stages, -1)).sum(2).flatten(1, 2)
        blocks = blocks.of_stage
    if blocks.even:
        return padded.reshape(len(codes), -1)
    valid = (blocks.columns() >= 0).to(codes.device)
    return padded[:, valid]
