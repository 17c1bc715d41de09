"""Conditions under which a Linear or Conv2d can be replaced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from halut.sites.attention import AttentionProducts

CALLING = {
    *("forward", "_conv_forward", "__call__", "__getattr__", "__getattribute__"),
    *("weight", "bias"),
}
"""What a subclass must not define to be known as its base at sight."""


def unsupported_reason(module: nn.Module) -> str | None:
    """Why a Linear or Conv2d cannot be replaced, or None.

    Subclasses can if they compute what their base does: their forward is its, or gives the same
    bits and gradients in both modes on random inputs, and they hold nothing but weight and bias.
    """
    kind = type(module)
    if kind is AttentionProducts:
        return None
    weight = module._parameters.get("weight")
    if weight is None or parametrize.is_parametrized(module):
        return (
            "its weight is computed at every call (weight_norm, spectral_norm, pruning or another "
            "parametrization): make it a parameter first, as remove_parametrizations does"
        )
    if type(weight) is not nn.Parameter or not weight.is_floating_point():
        return f"its weight is a {type(weight).__name__} of {weight.dtype}, no plain float tensor"
    if "forward" in vars(module):
        return "its forward was replaced by another function"
    if kind not in (nn.Linear, nn.Conv2d) and not pads_as_tensorflow(module):
        if _holds_more(module):
            return f"{kind.__name__} is a subclass with parameters or modules of its own"
        if not _inherits_forward(module) and not _computes_alike(module):
            return f"{kind.__name__} is a subclass that computes otherwise than its base"
    mode = getattr(module, "padding_mode", "zeros")
    return None if mode == "zeros" else f"padding_mode={mode!r}: only zeros can be replaced"


def _holds_more(module: nn.Module) -> bool:
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    return bool(module._modules) or not {"weight", "bias"}.issuperset(names)


def _inherits_forward(module: nn.Module) -> bool:
    """True if no class of the module's own has to do with calls or the weight."""
    base = nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d
    own = [kind for kind in type(module).__mro__ if kind not in base.__mro__]
    return not any(CALLING & vars(kind).keys() for kind in own)


def _computes_alike(module: nn.Module) -> bool:
    """Whether a subclass gives the bits and the gradients of its base, in either mode."""
    weight: Any = module.weight
    generator = torch.Generator().manual_seed(0)
    shape: tuple[int, ...] = (3, weight.shape[1])
    if isinstance(module, nn.Conv2d):
        sizes = zip(module.kernel_size, module.dilation, strict=True)
        shape = (2, module.in_channels, *(3 + d * (k - 1) + 1 for k, d in sizes))
    training = module.training
    try:
        for mode in (False, True, True):
            module.train(mode)
            x = torch.randn(shape, generator=generator).to(weight)
            ours, theirs = (_with_gradients(module, run, x) for run in (module, _base(module)))
            if not all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)):
                return False
    except Exception:  # its own code, on an input it was not asked for
        return False
    finally:
        module.train(training)
    return True


def _base(module: nn.Module) -> Any:
    if isinstance(module, nn.Linear):
        return lambda x: nn.Linear.forward(module, x)
    assert isinstance(module, nn.Conv2d)
    return lambda x: nn.Conv2d._conv_forward(module, x, module.weight, module.bias)


def _with_gradients(module: nn.Module, run: Any, x: Tensor) -> list[Tensor]:
    """An answer, and its gradients in x and the parameters that have any."""
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        x = x.clone().requires_grad_()
        y = run(x)
        towards = [x, *(p for p in module.parameters() if p.requires_grad)]
        generator = torch.Generator().manual_seed(1)
        weights = torch.randn(y.shape, generator=generator).to(y)
        return [y.detach(), *torch.autograd.grad((y * weights).sum(), towards)]


def pads_as_tensorflow(module: nn.Module) -> bool:
    """True for timm's Conv2dSame, told by name: the core does without importing timm."""
    kind = type(module)
    return kind.__name__ == "Conv2dSame" and kind.__module__.startswith("timm.")
