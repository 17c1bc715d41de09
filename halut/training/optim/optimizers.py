"""Optimizers by name: timm's and torch.optim's, over a group of parameters for each role."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from halut.errors import HalutError, message_of
from halut.replace.param_groups import role_groups

OWN = ("adamw", "sgd")
"""Names that need no timm: torch.optim.AdamW, and torch.optim.SGD with Nesterov momentum."""
REFUSED = {
    "LBFGS": "it computes the loss several times a step, and a fit computes it once",
    "SparseAdam": "it takes sparse gradients alone, and layers have dense ones",
    "adahessian": "it needs second derivatives, which a fit does not compute",
}
"""Optimizers that a fit cannot step, and why."""
BY_ROLE = ("lr", "weight_decay")
"""Arguments that are set for each role."""


def torch_optimizers() -> list[str]:
    """Names of the classes of torch.optim that a fit can step, such as NAdam."""
    optimizers = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    }
    return sorted(optimizers - {"Optimizer", *REFUSED})


def timm_optimizers() -> list[str]:
    """Names of timm's registry that a fit can step, such as lamb. Imports timm."""
    from timm.optim import list_optimizers

    return [str(name) for name in list_optimizers() if name not in REFUSED]


def optimizer_class(name: str, key: str = "optim.optimizer") -> Any:
    """The class behind a name; raises HalutError, with the names near it, if there is none."""
    for refused, reason in REFUSED.items():
        if name.lower() == refused.lower():
            raise HalutError(f"{key}={name}: {reason}; --help optim.optimizer lists the others")
    if name in OWN:
        return {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    if name in torch_optimizers():
        return getattr(torch.optim, name)
    from timm.optim import get_optimizer_class

    if name in timm_optimizers():
        try:
            return get_optimizer_class(name, bind_defaults=False)
        except (AssertionError, ImportError) as error:  # those of apex and bitsandbytes
            raise HalutError(f"{key}={name}: {message_of(error)}") from error
    raise HalutError(unknown_name(key, name, [*timm_optimizers(), *torch_optimizers()]))


def unknown_name(key: str, name: str, names: Collection[str]) -> str:
    """unknown KEY 'name', the nearest of many names, and how to list them."""
    known = {each.lower(): each for each in reversed([*names])}
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(known[each] for each in near)}? " if near else ""
    return f"unknown {key} {name!r}; {hint}--help {key} lists all"


def arguments_of(kind: Any, own: Collection[str] = ()) -> list[str]:
    """Names of a constructor's arguments that an option may give; `own` are given otherwise."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[2:]
    named = (p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD)
    return [name for name in named if name not in own]


def check_arguments(key: str, options: Mapping[str, Any], known: Sequence[str], of: str) -> None:
    """Raise HalutError for an option that is no argument of `of`."""
    for name in options:
        if name not in known:
            raise HalutError(f"{of} has no argument {key}.{name}; choose from: {', '.join(known)}")


def takes(name: str, argument: str) -> bool:
    """True if an optimizer has the argument; of names that do not exist too, which are refused."""
    try:
        return argument in arguments_of(optimizer_class(name))
    except HalutError:
        return True


def has_momentum(name: str) -> bool:
    """True if optim.momentum is read: by sgd, and by timm's optimizers with momentum."""
    if name in OWN or name in torch_optimizers():
        return name == "sgd"
    return takes(name, "momentum")


def make_optimizer(
    network: nn.Module,
    name: str,
    lr: Mapping[str, float],
    weight_decay: Mapping[str, float],
    momentum: float = 0.9,
    freeze: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> torch.optim.Optimizer:
    """Optimizer with the groups of halut.replace.param_groups.role_groups.

    `name` is one of timm's registry (adamw, sgd, lamb, lion, ...), or a class of torch.optim
    (NAdam). `momentum` is that of sgd, which is Nesterov's, and of timm's optimizers that have one;
    `options` are further arguments of the class, such as {"betas": [0.9, 0.95]}. Raises HalutError
    for names and options that do not exist, and if every role is frozen.
    """
    groups = role_groups(network, lr, weight_decay, freeze)
    if not groups:
        raise HalutError(f"nothing is left to train: {', '.join(freeze)} frozen")
    return _made(name, groups, momentum, options or {})


def _made(
    name: str,
    groups: list[dict[str, Any]],
    momentum: float,
    options: Mapping[str, Any],
    keys: tuple[str, str] = ("optim.optimizer", "optim.optimizer_options"),
) -> torch.optim.Optimizer:
    kind = optimizer_class(name, keys[0])
    check_arguments(keys[1], options, arguments_of(kind, BY_ROLE), f"{keys[0]}={name}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, **values)
    if name == "sgd":
        momentum = values.pop("momentum", momentum)
        return torch.optim.SGD(
            groups, **{"lr": 0.0, "momentum": momentum, "nesterov": momentum > 0, **values}
        )
    highest = max(group["lr"] for group in groups)
    if name in torch_optimizers():
        return kind(groups, lr=highest, **values)
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(groups, opt=name, lr=highest, **{"momentum": momentum, **values})


def check_optimizer(
    name: str,
    options: Mapping[str, Any],
    momentum: float = 0.9,
    keys: tuple[str, str] = ("optim.optimizer", "optim.optimizer_options"),
) -> torch.optim.Optimizer:
    """Raise HalutError, naming the option, if a fit cannot train with this optimizer.

    It is made for parameters as networks have them, of 1, 2 and 4 dimensions, and returned. No step
    is taken: torch's optimizers would start CUDA, before the ranks are started.
    """
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((2,), (2, 2), (2, 2, 3, 3))]
    groups = [
        {"params": [parameter], "lr": 1e-3, "weight_decay": 0.0, "role": "rest"}
        for parameter in parameters
    ]
    try:
        return _made(name, groups, momentum, options, keys)
    except HalutError:
        raise
    except Exception as error:
        raise HalutError(f"{keys[0]}={name}: {message_of(error)}") from error
