"""Attention's two products, q k' and a v, as a module of their own: what a site needs.

timm's attention computes them within its forward. `expose_attention` gives them a module, without
parameters, that computes the same: names of tensors and answers stay as they are.
"""

from __future__ import annotations

import functools
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from halut.errors import HalutError

KIND = "attention"
PRODUCTS = "products"
"""The name of the module that an attention gets."""


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

    Changes `network`, but neither its answers nor its state dict. Safe to call again.
    """
    found = []
    for name, module in network.named_modules():
        if _is_plain(module):
            _expose(module)
        if isinstance(module, _Exposed):
            found.append(f"{name}.{PRODUCTS}" if name else PRODUCTS)
    return found


def _expose(module: nn.Module) -> None:
    has: Any = module
    products = AttentionProducts(has.head_dim, has.scale, has.attn_drop.p, has.fused_attn)
    has.__class__ = _exposed(type(module))  # type: ignore[arg-type]
    module.add_module(PRODUCTS, products.train(module.training))


def _is_plain(module: nn.Module) -> bool:
    """True for timm's own Attention, told by name: the core does without importing timm."""
    kind = type(module)
    return kind.__name__ == "Attention" and kind.__module__ == "timm.layers.attention"


class _Exposed:
    """The forward of timm's attention around `products`."""

    def forward(self: Any, x: Tensor, attn_mask: Any = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal:
            raise HalutError("attention with a mask has no products that can be replaced")
        B, N, _ = x.shape
        gate = self.gate(x).sigmoid() if getattr(self, "gate", None) is not None else None
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = self.products(self.q_norm(q), self.k_norm(k), v)
        y = self.norm(y.transpose(1, 2).reshape(B, N, -1))
        return self.proj_drop(self.proj(y if gate is None else y * gate))


@functools.cache
def _exposed(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Exposed{kind.__name__}", (_Exposed, kind), {})
