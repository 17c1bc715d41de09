"""The `identity` estimator: the exact layer's input gradient beside a table product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.grad import conv2d_input

from halut.errors import HalutError
from halut.ops.geometry import ConvGeometry


def identity_gradient(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: ConvGeometry | None = None,
    scale: float = 1.0,
) -> Tensor:
    """y unchanged; the backward passes its gradient on to y, and scale * J'grad to x.

    J is the Jacobian of the exact layer: x [..., D], weight [M, D], y [..., M] without geometry;
    x [B, Cin, H, W], weight [M, Cin / groups, kh, kw], y [B, M, OH, OW] with it. The weight gets
    no gradient here. For the `blend` estimator with share b of identity, give this scale = b and
    the relaxed product ste_mix = 1 - b: the lut then keeps its whole gradient.
    Raises HalutError if shapes do not fit.
    """
    if geometry is None:
        fits = (*x.shape[:-1], weight.shape[0]) == tuple(y.shape)
        fits = fits and weight.ndim == 2 and x.shape[-1] == weight.shape[1]
    else:
        fits = x.ndim == 4 and weight.ndim == 4 and tuple(y.shape) == _output(x, weight, geometry)
        fits = fits and x.shape[1] == weight.shape[1] * _groups(x, weight)
    if not fits:
        raise HalutError(
            f"y {list(y.shape)}, x {list(x.shape)} and weight {list(weight.shape)} do not fit "
            f"{'a linear layer' if geometry is None else geometry}"
        )
    return _IdentityGradient.apply(y, x, weight, geometry, scale)


def _groups(x: Tensor, weight: Tensor) -> int:
    return x.shape[1] // max(weight.shape[1], 1)


def _output(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> tuple[int, ...]:
    return (x.shape[0], weight.shape[0], *geometry.output_size(x.shape[2], x.shape[3]))


class _IdentityGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, weight: Tensor, geometry: ConvGeometry | None, scale: float
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.geometry, ctx.scale = geometry, scale
        ctx.size, ctx.dtype = x.shape, x.dtype
        return y.view_as(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        if not ctx.scale or not ctx.needs_input_grad[1]:
            return grad, None, None, None, None
        dense = grad.to(weight.dtype)
        if ctx.geometry is None:
            dx = dense @ weight
        else:
            dx = _conv_input_gradient(dense, weight, ctx.size, ctx.geometry)
        return grad, (dx * ctx.scale).to(ctx.dtype), None, None, None


def _conv_input_gradient(
    grad: Tensor, weight: Tensor, size: Sequence[int], geometry: ConvGeometry
) -> Tensor:
    """Gradient of the map of `size`, taken on the padded map: padding may be asymmetric."""
    B, Cin, H, W = size
    left, right, top, bottom = geometry.padding
    padded = (B, Cin, H + top + bottom, W + left + right)
    dx = conv2d_input(
        padded,
        weight,
        grad,
        stride=geometry.stride,
        padding=0,
        dilation=geometry.dilation,
        groups=Cin // weight.shape[1],
    )
    return dx[:, :, top : top + H, left : left + W]
