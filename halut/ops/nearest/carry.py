"""The `rotation` and `diveq` estimators: the gradient at quantized inputs, carried to the inputs.

A table product answers q W' for q, the prototypes of the codes of x. With g = dy W, the gradient at
q, each block x_c of V inputs and its prototype q_c get

- rotation: x_c gets s R' g_c, where s R, the rotation R in the plane of both and s = |q_c| / |x_c|,
  takes x_c to q_c and is held constant (Fifty et al., Restructuring Vector Quantization with the
  Rotation Trick, ICLR 2025);
- diveq: of q_c = x_c + |q_c - x_c| v with the constant direction v, x_c gets g_c - v (v.g_c) and
  the prototype v (v.g_c) (Vali et al., DiVeQ, 2025; without the noise it adds to v).

Where rotation has no direction (x_c or q_c zero), and diveq none (x_c = q_c), x_c gets g_c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.blocks import Blocks
from halut.ops.core import dispatch
from halut.ops.core.checks import (
    check_codes,
    check_floating,
    check_same_device,
    chunk_rows,
    compute_dtype,
)
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.columns import (
    check_source,
    column_count,
    empty_gradient,
    row_count,
    rows_gradient_torch,
    rows_torch,
)

METHODS = ("rotation", "diveq")
BUFFERS = 8
"""Arrays of GC * V values per row that a chunk holds at once, at most."""
OPPOSITE = 1e-6
"""Length of the sum of two unit vectors from which on they have a mean direction."""


def carry_gradient(
    y: Tensor,
    x: Tensor,
    codes: Tensor,
    prototypes: Tensor,
    weight: Tensor,
    method: str,
    geometry: ConvGeometry | None = None,
) -> Tensor:
    """Rows y [N, G * M] unchanged; their gradient also reaches x, and by diveq prototypes.

    x rows [N, G * D], or a map with its geometry; codes [N, G * C]; prototypes [G * C, K, V]; the
    exact layer's weight [G * M, D] gets no gradient here. Raises HalutError on another method than
    rotation and diveq, or dtypes, shapes or devices that do not fit.
    """
    if method not in METHODS:
        raise HalutError(f"unknown method {method!r}; choose one of: {', '.join(METHODS)}")
    check_source(x, geometry)
    check_floating("prototypes", prototypes, 3)
    check_floating("weight", weight, 2)
    check_codes(codes, prototypes.shape[0])
    check_same_device(y=y, x=x, codes=codes, prototypes=prototypes, weight=weight)
    D, N, columns = weight.shape[1], row_count(x, geometry), column_count(x, geometry)
    groups = columns // max(D, 1)
    fits = groups > 0 and groups * D == columns and prototypes.shape[0] % groups == 0
    fits = fits and prototypes.shape[2] == Blocks(D, prototypes.shape[0] // groups, groups).V
    if not fits or len(codes) != N or tuple(y.shape) != (N, weight.shape[0]):
        raise HalutError(
            f"y {list(y.shape)}, x {list(x.shape)}, codes {list(codes.shape)}, prototypes "
            f"{list(prototypes.shape)} and weight {list(weight.shape)} do not fit"
        )
    numbers = geometry.numbers if geometry else []
    return _Carry.apply(y, x, prototypes, codes, weight.detach(), method, numbers)


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        x: Tensor,
        prototypes: Tensor,
        codes: Tensor,
        weight: Tensor,
        method: str,
        numbers: Sequence[int],
    ) -> Tensor:
        ctx.save_for_backward(x, prototypes, codes, weight)
        ctx.method, ctx.numbers = method, numbers
        return y.view_as(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, prototypes, codes, weight = ctx.saved_tensors
        _, need_x, need_prototypes, *_ = ctx.needs_input_grad
        need_prototypes = need_prototypes and ctx.method == "diveq"
        if not (need_x or need_prototypes):
            return grad, None, None, None, None, None, None
        dx, dp = torch.ops.halut.carry_gradient(
            grad, x, codes, prototypes, weight, ctx.method, need_prototypes, ctx.numbers
        )
        dx, dp = dx if need_x else None, dp if need_prototypes else None
        return grad, dx, dp, None, None, None, None


@torch.library.custom_op("halut::carry_gradient", mutates_args=())
def _carry_gradient(
    grad: Tensor,
    x: Tensor,
    codes: Tensor,
    prototypes: Tensor,
    weight: Tensor,
    method: str,
    need_prototypes: bool,
    geometry: Sequence[int],
) -> tuple[Tensor, Tensor]:
    shape = ConvGeometry.of_numbers(tuple(geometry))
    arguments = (grad, x, codes, prototypes, weight, method, need_prototypes, shape)
    return dispatch.run("carry_gradient", x.device, *arguments)


@_carry_gradient.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    codes: Tensor,
    prototypes: Tensor,
    weight: Tensor,
    method: str,
    need_prototypes: bool,
    geometry: Sequence[int],
) -> tuple[Tensor, Tensor]:
    return empty_gradient(x), torch.empty_like(prototypes, memory_format=torch.contiguous_format)


@dispatch.implementation("carry_gradient", "torch")
def carry_gradient_torch(
    grad: Tensor,
    x: Tensor,
    codes: Tensor,
    prototypes: Tensor,
    weight: Tensor,
    method: str,
    need_prototypes: bool,
    geometry: ConvGeometry | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and prototypes (zeros unless needed), in chunks of rows or of images."""
    GC, K, V = prototypes.shape
    M, D = weight.shape
    groups = column_count(x, geometry) // D
    blocks = Blocks(D, GC // groups, groups)
    dtype = compute_dtype(torch.promote_types(x.dtype, prototypes.dtype))
    p, W = prototypes.to(dtype), weight.to(dtype).view(groups, -1, D)
    books = torch.arange(GC, device=x.device)
    dx = empty_gradient(x)
    dp = torch.zeros_like(p, memory_format=torch.contiguous_format)
    per_item = row_count(x[:1], geometry) if len(x) else 1
    row_bytes = (BUFFERS * GC * V + need_prototypes * GC * K) * p.element_size()
    step = max(1, chunk_rows(row_bytes, x.device) // max(1, per_item))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        rows = slice(start * per_item, (start + len(part)) * per_item)
        inputs = blocks.split(rows_torch(part, geometry).to(dtype))
        code = codes[rows].long()
        q = p[books, code]  # [n, GC, V]
        at_q = torch.einsum("ngm,gmd->ngd", grad[rows].to(dtype).view(-1, groups, M // groups), W)
        g = blocks.split(at_q.flatten(1))
        if method == "rotation":
            carried = rotated(g, inputs, q)
        else:
            along = along_the_error(g, inputs, q)
            carried = g - along
            if need_prototypes:
                used = code.t()[:, None] == torch.arange(K, device=x.device)[:, None]
                dp += torch.bmm(used.to(dtype), along.transpose(0, 1))
        dx[start : start + step] = rows_gradient_torch(blocks.join(carried), part, geometry)
    return dx, dp.to(prototypes.dtype)


def rotated(g: Tensor, x: Tensor, q: Tensor) -> Tensor:
    """(|q| / |x|) R' g along the last dimension, R the rotation that takes x's direction to q's.

    R = I - 2 r r' + 2 q^ x^' with unit vectors x^, q^ and r = (x^ + q^) / |x^ + q^|; for opposite
    ones the reflection along them. g itself where x or q is zero.
    """
    size_x, size_q = (torch.linalg.vector_norm(one, dim=-1, keepdim=True) for one in (x, q))
    directed = (size_x > 0) & (size_q > 0)
    size_x = size_x.where(directed, 1.0)
    unit_x, unit_q = x / size_x, q / size_q.where(directed, 1.0)
    r = torch.nn.functional.normalize(unit_x + unit_q, dim=-1, eps=OPPOSITE)
    back = g - 2 * r * dot(r, g) + 2 * unit_x * dot(unit_q, g)
    return torch.where(directed, back * (size_q / size_x), g)


def along_the_error(g: Tensor, x: Tensor, q: Tensor) -> Tensor:
    """v (v.g) along the last dimension, v the direction of q - x; zero where both are equal."""
    error = q - x
    size = torch.linalg.vector_norm(error, dim=-1, keepdim=True)
    v = error / size.where(size > 0, 1.0)
    return v * dot(v, g)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """a.b along the last dimension, which is kept."""
    return (a * b).sum(-1, keepdim=True)
