"""Optimiser roles: every parameter of a network belongs to one, each with its own rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from halut.errors import HalutError
from halut.replace.schedule import ROLES
from halut.replace.swap import replaced_layers


def by_role(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """All parameters that train, each once, by role; what no operator claims is "rest"."""
    roles: dict[str, list[nn.Parameter]] = {role: [] for role in ROLES}
    seen: set[int] = set()
    for _, layer in replaced_layers(network):
        for role, parameters in layer.param_groups().items():
            for parameter in parameters:
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    roles[role].append(parameter)
    roles["rest"] += [p for p in network.parameters() if id(p) not in seen]
    return {r: [p for p in ps if p.requires_grad] for r, ps in roles.items()}


def make_optimizer(
    network: nn.Module,
    name: str,
    lr: Mapping[str, float],
    weight_decay: Mapping[str, float],
    momentum: float = 0.9,
    freeze: Sequence[str] = (),
) -> torch.optim.Optimizer:
    """Optimiser with one or two groups per role: what weight decay leaves alone has its own.

    Parameters of the roles in `freeze` are left out. They keep requires_grad, as the next fit may
    train them, and a layer swapped in later takes it over from the one it replaces.
    Never decayed: biases, norms and other numbers per channel, and what the network itself names in
    `no_weight_decay` (timm's transformers: class token and places).
    """
    listed = getattr(network, "no_weight_decay", None)
    named: set[str] = set(listed()) if callable(listed) else set()
    exempt = {id(p) for n, p in network.named_parameters() if n in named or _per_channel(p)}
    groups = []
    for role, parameters in by_role(network).items():
        if role in freeze:
            continue
        decayed = [p for p in parameters if id(p) not in exempt]
        plain = [p for p in parameters if id(p) in exempt]
        for members, decay in ((decayed, weight_decay[role]), (plain, 0.0)):
            if members:
                groups.append(
                    {"params": members, "lr": lr[role], "weight_decay": decay, "role": role}
                )
    if not groups:
        raise HalutError(f"nothing is left to train: {', '.join(freeze)} frozen")
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)
    return torch.optim.AdamW(groups, lr=0.0)


def _per_channel(parameter: nn.Parameter) -> bool:
    """True for [C], a scalar, and [1, ..., 1, C], as ResMLP's affine layers have."""
    return parameter.ndim <= 1 or (parameter.ndim > 2 and parameter.shape[-1] == parameter.numel())


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
