"""Oracles of the table product and its transpose."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def accumulate_reference(codes: Tensor, table: Tensor) -> Tensor:
    """Oracle of `accumulate`: every entry looked up ([N, G, C, M]), then summed over C."""
    G, C, _, M = table.shape
    N = codes.shape[0]
    group = torch.arange(G, device=codes.device).view(1, G, 1)
    codebook = torch.arange(C, device=codes.device).view(1, 1, C)
    entries = table[group, codebook, codes.view(N, G, C).long()]
    if table.dtype == torch.int8:
        return entries.to(torch.int32).sum(2, dtype=torch.int32).view(N, G * M)
    return entries.sum(2).view(N, G * M)


def scatter_add_reference(codes: Tensor, grad: Tensor, groups: int, K: int) -> Tensor:
    """Oracle of `scatter_add`: the product with the one-hot codes."""
    N, C, M = codes.shape[0], codes.shape[1] // groups, grad.shape[1] // groups
    one_hot = F.one_hot(codes.long(), K).to(grad.dtype).view(N, groups, C, K)
    return torch.einsum("ngck,ngm->gckm", one_hot, grad.view(N, groups, M))
