"""Straight-through gradients: the forward value is the quantized one, to the bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, q: Tensor, mask: Tensor | None) -> Tensor:
        ctx.save_for_backward(mask)
        return q.view_as(q)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (mask,), (gradient,) = ctx.saved_tensors, gradients
        return gradient if mask is None else gradient * mask, gradient, None


def straight_through(x: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
    """q; its gradient reaches x where `mask` (None: everywhere), and q, if that has parameters.

    Not x + (q - x).detach(), which is q up to a rounding.
    """
    if not torch.is_grad_enabled() or not (x.requires_grad or q.requires_grad):
        return q
    return _StraightThrough.apply(x, q, mask)
