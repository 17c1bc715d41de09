"""Optimizers by name, and their learning rates' schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from halut.errors import HalutError
from halut.replace.param_groups import role_groups


def make_optimizer(
    network: nn.Module,
    name: str,
    lr: Mapping[str, float],
    weight_decay: Mapping[str, float],
    momentum: float = 0.9,
    freeze: Sequence[str] = (),
) -> torch.optim.Optimizer:
    """Optimizer with the groups of halut.replace.param_groups.role_groups."""
    groups = role_groups(network, lr, weight_decay, freeze)
    if not groups:
        raise HalutError(f"nothing is left to train: {', '.join(freeze)} frozen")
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)
    return torch.optim.AdamW(groups, lr=0.0)


def make_schedule(
    optimizer: torch.optim.Optimizer, steps: int, warmup: float, kind: str, floor: float
) -> LambdaLR:
    """Per-step factor: linear from 0 over `warmup` of the steps, then cosine down to `floor`."""
    rising = int(warmup * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        if kind == "constant":
            return 1.0
        done = min((step - rising) / max(steps - rising, 1), 1.0)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)
