"""Bases of signs about thresholds: the least-squares factors of given ones, and a quantizer's."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-9  # relative: splits the factor of equal bases evenly, and is lost in float32 otherwise
STEPS = 50
VALUES = 2**20


def signs_at(alpha: Tensor, codes: Tensor) -> Tensor:
    """sum_n alpha_n (+1 if bit n of a code is set, else -1) [R, codes] of alpha [R, n]."""
    total = torch.zeros((), device=alpha.device)
    for n in range(alpha.shape[1]):
        positive = ((codes >> n) & 1) > 0
        total = total + torch.where(positive, alpha[:, n, None], -alpha[:, n, None])
    return total


def windows(x: Tensor, beta: Tensor, thresholds: Tensor) -> Tensor:
    """sum_n beta_n [|x - t_n| <= 1/2], of x's shape."""
    total = torch.zeros((), device=x.device)
    for b, t in zip(beta, thresholds, strict=True):
        total = total + torch.where((x - t).abs() <= 0.5, b, 0.0)
    return total


def shifts(M: int) -> list[float]:
    """u_i of M bases: from -1 to 1 in equal steps; 0 for one."""
    return [0.0] if M == 1 else [-1 + 2 * i / (M - 1) for i in range(M)]


def least_squares(rows: Tensor, thresholds: Tensor, mask: Tensor | None = None) -> Tensor:
    """alpha = argmin ||x - B alpha||^2 [R, M] float64, B_i = +1 where x >= t_i, else -1.

    rows x [R, K] float32, thresholds t [R, M] that fall or rise with i; mask [R, K] bool: where
    values count. How many lie above every threshold, and their sum, is all that B is needed for.
    """
    M = thresholds.shape[1]
    keep_mask = torch.ones_like(rows, dtype=torch.bool) if mask is None else mask
    x = torch.where(keep_mask, rows, 0.0).double()
    count, total = keep_mask.sum(1).double(), x.sum(1)
    above = [(rows >= thresholds[:, i, None]) & keep_mask for i in range(M)]
    counts = torch.stack([a.sum(1).double() for a in above], 1)
    right = 2 * torch.stack([torch.where(a, x, 0.0).sum(1) for a in above], 1) - total[:, None]
    gram = count[:, None, None] - 2 * (counts[:, :, None] - counts[:, None]).abs()
    eye = torch.eye(M, dtype=torch.float64, device=rows.device)
    ridge = RIDGE * count.clamp_min(1)[:, None, None] * eye
    return torch.linalg.solve(gram + ridge, right)


def solved_alpha(rows: Tensor, M: int, mask: Tensor | None = None) -> Tensor:
    """alpha and thresholds mean - u_i std of rows x [R, K] float32 -> [R, 2, M] float32.

    mean and std (of the population) are those of the values that the mask keeps.
    """
    x = rows.double()
    weight = torch.ones_like(x) if mask is None else mask.double()
    count = weight.sum(1, keepdim=True).clamp_min(1)
    mean = (x * weight).sum(1, keepdim=True) / count
    std = ((x - mean).square() * weight).sum(1, keepdim=True).div(count).sqrt()
    u = torch.tensor(shifts(M), dtype=torch.float64, device=rows.device)
    thresholds = (mean - u * std).float()
    return torch.stack([least_squares(rows, thresholds, mask).float(), thresholds], 1)


def fit_bases(values: Tensor, N: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """beta and thresholds [N] float32 of a quantizer of values [K] by N signs.

    In turns: beta of least squared error, and thresholds halfway between the levels, which rise
    as beta stays positive. Starts at levels evenly over [-s, s], s twice the root mean square.
    """
    x = values.flatten()
    if x.numel() > VALUES:
        generator = torch.Generator().manual_seed(seed)
        x = x[torch.randint(x.numel(), (VALUES,), generator=generator).to(x.device)]
    s = 2 * x.double().square().mean().sqrt()
    beta = (s / N).expand(N)
    for _ in range(STEPS):
        solution = least_squares(x[None].float(), midpoints(beta).float()[None])[0]
        if not bool((solution > 0).all()):
            break
        change, beta = (solution - beta).abs().max(), solution
        if change <= 1e-6 * s:
            break
    beta = beta.float()
    return beta, midpoints(beta)


def midpoints(beta: Tensor) -> Tensor:
    """Between levels -S, -S + 2 beta_1, -S + 2 beta_1 + 2 beta_2, ..: [N], S = sum beta."""
    return 2 * beta.cumsum(0) - beta - beta.sum()
