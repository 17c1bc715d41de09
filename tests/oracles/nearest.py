"""Oracles of the nearest-prototype operators, on rows, in plain differentiable torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.ops.blocks import Blocks


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
    ste_mix: float = 1.0,
) -> Tensor:
    """Oracle of `nearest_matmul`: one-hot codes, straight-through, einsum."""
    G, C, K, M = lut.shape
    N = x.shape[0]
    soft = ste_mix * nearest_assign_reference(x, prototypes, tau, metric, groups)[1]
    codes = nearest_encode_reference(x, prototypes, metric, groups)
    hard = F.one_hot(codes.long(), K).to(soft.dtype).view(N, G, C, K)
    soft = soft.view(N, G, C, K)
    encoder = torch.einsum("ngck,gckm->ngm", soft - soft.detach(), lut.detach())
    tables = torch.einsum("ngck,gckm->ngm", hard, lut + (table - lut).detach())
    return (tables + encoder).reshape(N, G * M)
