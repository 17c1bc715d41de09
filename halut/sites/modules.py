"""Module swapping that keeps plain attributes and hooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def replace_module(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put `module` wherever the network holds the module of that name, and return the latter.

    It takes over what code around the layer may count on: plain attributes (in_features, stride,
    a user's own) that it does not have, and hooks, whose handles still remove them.
    """
    source = network.get_submodule(name)
    take_over(module, source)
    set_module(network, source, module)
    return source


def set_module(network: nn.Module, source: nn.Module, module: nn.Module) -> None:
    """Put `module` at every place where the network holds `source`."""
    places = [
        (parent, child_name)
        for parent in network.modules()
        for child_name, child in parent._modules.items()  # named_children lists shared ones once
        if child is source
    ]
    for parent, child_name in places:
        setattr(parent, child_name, module)


@contextmanager
def restored_on_error(network: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """If the block raises, the modules of these names are in the network again."""
    modules = dict(network.named_modules(remove_duplicate=False))
    sources = {name: modules[name] for name in names if name in modules}
    try:
        yield
    except BaseException:
        for name, source in sources.items():
            set_module(network, network.get_submodule(name), source)
        raise


def take_over(module: nn.Module, source: nn.Module) -> None:
    """Give `module` the attributes and the hooks of `source`."""
    for name, value in vars(source).items():
        if not name.startswith("_") and not callable(value) and not hasattr(module, name):
            setattr(module, name, value)
    for name in HOOKS:
        # The very dictionaries: a handle that its user holds removes its hook from there.
        vars(module)[name] = vars(source)[name]


def call_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The inputs of a call, however they were given: layer(x) and layer(input=x) are the same."""
    return (*args, *kwargs.values())
