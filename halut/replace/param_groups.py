"""Parameter groups by optimizer role."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from halut.errors import HalutError
from halut.option import unknown
from halut.replace.schedule import ROLES
from halut.replace.swap import replaced_layers


def by_role(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """All parameters that train, each once, by role; what no operator claims is "rest"."""
    roles: dict[str, list[nn.Parameter]] = {role: [] for role in ROLES}
    ids: set[int] = set()
    for _, layer in replaced_layers(network):
        for role, parameters in layer.param_groups().items():
            for parameter in parameters:
                if id(parameter) not in ids:
                    ids.add(id(parameter))
                    roles[role].append(parameter)
    roles["rest"] += [p for p in network.parameters() if id(p) not in ids]
    return {r: [p for p in ps if p.requires_grad] for r, ps in roles.items()}


def role_groups(
    network: nn.Module,
    lr: Mapping[str, float],
    weight_decay: Mapping[str, float],
    freeze: Collection[str] = (),
) -> list[dict[str, Any]]:
    """One or two groups of parameters per role: what weight decay leaves alone has its own.

    Parameters of the roles in `freeze` are left out. They keep requires_grad, as the next fit may
    train them, and a layer swapped in later takes it over from the one it replaces.
    Never decayed: biases, norms and other numbers per channel, and what the network itself names in
    `no_weight_decay` (timm's transformers: class token and places).
    """
    no_decay = getattr(network, "no_weight_decay", None)
    no_decay_names: set[str] = set(no_decay()) if callable(no_decay) else set()
    exempt = {
        id(p) for n, p in network.named_parameters() if n in no_decay_names or _per_channel(p)
    }
    groups: list[dict[str, Any]] = []
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
    return groups


def param_groups(
    network: nn.Module,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    **by_role: float | Mapping[str, float],
) -> list[dict[str, Any]]:
    """Groups of parameters for any optimizer of torch's form, by role.

    Roles are table, prototypes, thresholds, temperature, basis, and rest: all that no replaced
    layer claims. A role's own rate, or {"lr": ..., "weight_decay": ...}, is given by its name; a
    rate of 0 leaves it out. Biases, norms and other numbers per channel are not decayed.

    >>> groups = param_groups(nn.Linear(4, 2), lr=1e-3, table=3e-3)
    >>> [group["role"] for group in groups]
    ['rest', 'rest']

    Raises HalutError for a role that does not exist.
    """
    rates, decays = dict.fromkeys(ROLES, lr), dict.fromkeys(ROLES, weight_decay)
    for role, own in by_role.items():
        if role not in ROLES:
            raise HalutError(unknown("role", role, ROLES))
        values = own if isinstance(own, Mapping) else {"lr": own}
        for key, value in values.items():
            if key not in ("lr", "weight_decay"):
                raise HalutError(unknown(f"option of {role}", key, ("lr", "weight_decay")))
            (rates if key == "lr" else decays)[role] = value
    return role_groups(network, rates, decays, [role for role in ROLES if rates[role] == 0])


def _per_channel(parameter: nn.Parameter) -> bool:
    """True for [C], a scalar, and [1, ..., 1, C], as ResMLP's affine layers have."""
    return parameter.ndim <= 1 or (parameter.ndim > 2 and parameter.shape[-1] == parameter.numel())
