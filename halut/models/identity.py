"""Layers that are left out: identities in the place of those that keep their input's shape."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from halut.errors import HalutError
from halut.replace.policy import matches_name

MAX_NAMED = 8
"""Layers that a message names at most."""


def leave_out(network: nn.Module, patterns: Sequence[str]) -> None:
    """Put an identity, in place, where a Linear or Conv2d's name matches one of `patterns`.

    Raises HalutError if a pattern matches no such layer, or a layer whose output has another shape
    than its input.
    """
    layers = {
        name: module
        for name, module in network.named_modules()
        if type(module) in (nn.Linear, nn.Conv2d)
    }
    able = [name for name, module in layers.items() if keeps_shape(module)]
    choices = ", ".join(able[:MAX_NAMED]) + (", ..." if len(able) > MAX_NAMED else "") or "none"
    for pattern in patterns:
        names = [name for name in layers if matches_name(pattern, name)]
        if not names:
            raise HalutError(
                f"model.options.identity: {pattern!r} matches no layer; layers that can be left "
                f"out: {choices}"
            )
        if wrong := [name for name in names if name not in able]:
            raise HalutError(
                f"model.options.identity: {wrong[0]} changes the shape of its input; layers that "
                f"can be left out: {choices}"
            )
        for name in names:
            network.set_submodule(name, nn.Identity())


def keeps_shape(layer: nn.Module) -> bool:
    """Whether the output of a Linear or Conv2d has the shape of its input, whatever its size."""
    if isinstance(layer, nn.Linear):
        return layer.in_features == layer.out_features
    if not isinstance(layer, nn.Conv2d) or layer.in_channels != layer.out_channels:
        return False
    if any(stride != 1 for stride in layer.stride):
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same"
    sizes = zip(layer.kernel_size, layer.dilation, layer.padding, strict=True)
    return all(dilation * (kernel - 1) == 2 * padding for kernel, dilation, padding in sizes)
