"""Base class of inference layers: input checks and fixed dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.sites.find import Site

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""Inputs that a layer takes, and answers in their dtype."""
NO_TRAINING = "a network prepared for inference answers in evaluation mode: call its eval() first"
NO_GRADIENT = (
    "a layer prepared for inference has no gradient: call it under torch.no_grad(), or train the "
    "network it was prepared from"
)


class InferenceLayer(nn.Module):
    """A replaced layer's form for inference: buffers, no gradient.

    Buffers keep their dtypes when the network is cast (`.half()`): scales and thresholds are no
    activations, and the input may have any of FLOATS.

    `like` is NaN, of the dtype and device that the layer's weight would have: what code asks the
    weight for, or the first of parameters(). It is no part of state dicts.
    """

    site: Site
    like: nn.Parameter

    def __init__(self) -> None:
        super().__init__()
        self.like = nn.Parameter(torch.full((), torch.nan), requires_grad=False)

    def magnitude(self) -> float:
        """The size of the terms that an answer is summed of, if it may be far above the answer's.

        Sums round as their terms do: what cancels leaves that behind.
        """
        return 0.0

    def check(self, x: Tensor) -> None:
        """Raise HalutError for an input of another dtype or size, or one that wants a gradient."""
        if x.dtype not in FLOATS:
            choices = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
            raise HalutError(f"{self.site.name} takes inputs of {choices}, got {x.dtype}")
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
        def convert(value: Tensor) -> Tensor:
            new = fn(value)
            return new if new.dtype == value.dtype else value.to(new.device)

        like = self.like.detach()
        super()._apply(convert, recurse)
        self.like = nn.Parameter(fn(like), requires_grad=False)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(f"{prefix}like")

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict[f"{prefix}like"] = self.like
        super()._load_from_state_dict(state_dict, prefix, *args)


def absent(layer: InferenceLayer) -> Tensor:
    """The weight [M, D] of a form that has none: NaN that takes no memory.

    It tells shape, dtype and device; the values of a layer that is replaced are read by nobody
    (halut.sites), and were they, the answer would be NaN.
    """
    return layer.like.detach().expand(layer.site.M, layer.site.D)


def refuse_training(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A forward pre-hook: raise HalutError in training mode, or if an input wants a gradient.

    Whatever operators a prepared network is made of, it has no gradient for its inputs; and what is
    left of norms and dropout would answer otherwise in training mode.
    """
    if module.training:
        raise HalutError(NO_TRAINING)
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled():
            raise HalutError(NO_GRADIENT)
