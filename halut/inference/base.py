"""What all layers that can only answer have in common: checks of inputs, and dtypes that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.sites.find import Site

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""Inputs that a layer takes, and answers in their dtype."""
NO_GRADIENT = (
    "a layer prepared for inference has no gradient: call it under torch.no_grad(), or train the "
    "network it was prepared from"
)


class InferenceLayer(nn.Module):
    """A replaced layer's form for inference: buffers, no parameters, no gradient.

    Buffers keep their dtypes when the network is cast (`.half()`): scales and thresholds are no
    activations, and the input may have any of FLOATS.
    """

    site: Site

    def check(self, x: Tensor) -> None:
        """Raise HalutError for an input of another dtype or size, or one that wants a gradient."""
        if x.dtype not in FLOATS:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
            raise HalutError(f"{self.site.name} takes inputs of {known}, got {x.dtype}")
        site = self.site
        if site.geometry is None:
            if x.ndim == 0 or x.shape[-1] != site.D:
                raise HalutError(f"{site.name} takes {site.D} inputs, got {list(x.shape)}")
        elif x.ndim != 4 or x.shape[1] != site.D // site.taps * site.groups:
            channels = site.D // site.taps * site.groups
            raise HalutError(f"{site.name} takes maps of {channels} channels, got {list(x.shape)}")
        if x.requires_grad and torch.is_grad_enabled():
            raise HalutError(NO_GRADIENT)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def moved(value: Tensor) -> Tensor:
            new = fn(value)
            return new if new.dtype == value.dtype else value.to(new.device)

        return super()._apply(moved, recurse)


def refuse_gradients(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A forward pre-hook: raise HalutError for an input that wants a gradient.

    Whatever operators a prepared network is made of, it has none for its inputs.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled():
            raise HalutError(NO_GRADIENT)
