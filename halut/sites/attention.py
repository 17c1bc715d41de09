"""Attention's two products, q k' and a v, as a module that can be replaced.

timm's attention computes them within its forward. `expose_attention` gives them a module, without
parameters, that computes the same: names of tensors and answers stay as they are.

The forward around that module is written out here, not timm's own run under a TorchFunctionMode
that catches scaled_dot_product_attention: timm does not call it where `fused_attn` is off, and a
mode would be entered at every forward, compiled and exported ones too. So that the copy cannot
drift, an attention is exposed only after it has answered as timm's own forward does.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halut.errors import HalutError
from halut.sites.usage import same, seeded

KIND = "attention"
PRODUCTS = "products"
"""The name of the module that an attention gets."""
NEEDED = ("qkv", "num_heads", "head_dim", "scale", "attn_drop", "fused_attn", "proj", "proj_drop")


class AttentionProducts(nn.Module):
    """softmax(scale q k') v of q, k, v [B, heads, N, d], exact; dropout on the softmax."""

    def __init__(self, d: int, scale: float, drop: float, fused_attn: bool) -> None:
        super().__init__()
        self.d, self.scale, self.drop, self.fused_attn = d, scale, drop, fused_attn

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        drop = self.drop if self.training else 0.0
        if self.fused_attn:
            return F.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        a = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        return F.dropout(a, drop) @ v


def expose_attention(network: nn.Module) -> list[str]:
    """Give every attention of timm's plain kind its module of products; the modules' names.

    Changes `network`, but neither its answers nor its state dict. Safe to call again. Those that
    `unexposed` tells of stay as they are.
    """
    names = []
    for name, module in network.named_modules():
        if _is_timms(module) and _difference(module) is None:
            products = _products(module)
            module.__class__ = _exposed(type(module))  # type: ignore[arg-type]
            module.add_module(PRODUCTS, products.train(module.training))
        if isinstance(module, _Exposed):
            names.append(f"{name}.{PRODUCTS}" if name else PRODUCTS)
    return names


def unexposed(network: nn.Module) -> dict[str, str]:
    """Names of timm's attentions that `expose_attention` leaves alone, each with the reason."""
    reasons = {n: _difference(m) for n, m in network.named_modules() if _is_timms(m)}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _is_timms(module: nn.Module) -> bool:
    """True for timm's own kinds, told by name: the core does without importing timm."""
    kind = type(module)
    own = kind.__module__ == "timm.layers.attention" or (
        kind.__name__ == "Attention" and kind.__module__.startswith("timm.")
    )
    return own and not isinstance(module, _Exposed)


def _difference(module: nn.Module) -> str | None:
    """How the module is unlike timm's plain attention, or None: its answers are measured.

    A copy of it and `_attend` are given the same tokens and random numbers, in either mode.
    """
    kind = type(module).__name__
    missing = [name for name in NEEDED if getattr(module, name, None) is None]
    if missing:
        return f"{kind} has no {missing[0]}, which timm's plain attention has"
    if "forward" in vars(module):
        return "its forward was replaced by another function"
    weight: Any = next(module.parameters())
    if weight.is_meta:  # it has no answers
        return None
    try:
        own: Any = copy.deepcopy(module)
        products = _products(own)
        tokens = torch.randn(2, 5, own.qkv.in_features, generator=torch.Generator().manual_seed(0))
        tokens = tokens.to(weight)
        for mode in (False, True):
            own.train(mode)
            products.train(mode)
            with torch.no_grad():
                copied: Any = functools.partial(_attend, own, products)
                if not same(seeded(copied, tokens), seeded(own, tokens)):
                    return f"this timm's {kind} computes otherwise than its plain attention"
    except Exception as error:  # its own code, on an input it was not asked for
        return f"{kind} fails where timm's plain attention answers: {error!r}".splitlines()[0]
    return None


def _products(module: nn.Module) -> AttentionProducts:
    has: Any = module
    return AttentionProducts(has.head_dim, has.scale, has.attn_drop.p, has.fused_attn)


def _attend(module: Any, products: nn.Module, x: Tensor) -> Tensor:
    """The forward of timm's attention around `products`."""
    B, N, _ = x.shape
    gate = module.gate(x).sigmoid() if getattr(module, "gate", None) is not None else None
    qkv = module.qkv(x).reshape(B, N, 3, module.num_heads, module.head_dim).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    y = products(module.q_norm(q), module.k_norm(k), v).transpose(1, 2).reshape(B, N, -1)
    if getattr(module, "norm", None) is not None:
        y = module.norm(y)
    return module.proj_drop(module.proj(y if gate is None else y * gate))


class _Exposed:
    """timm's attention around `products`; with a mask or positions, its own forward."""

    def forward(self: Any, x: Tensor, *args: Any, **named: Any) -> Tensor:
        if all(value is None or value is False for value in (*args, *named.values())):
            return _attend(self, self.products, x)
        if not isinstance(self.products, AttentionProducts):
            raise HalutError("attention with a mask has no products that can be replaced")
        return super().forward(x, *args, **named)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """As an empty one of timm's class, and its state: no name leads to a class made here."""
        return _empty, (type(self).__bases__[1],), vars(self)


@functools.cache
def _exposed(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Exposed{kind.__name__}", (_Exposed, kind), {})


def _empty(kind: type[nn.Module]) -> nn.Module:
    exposed: Any = _exposed(kind)  # type: ignore[arg-type]
    return exposed.__new__(exposed)
