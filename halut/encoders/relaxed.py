"""The table product of any encoder: hard forward, the gradient of its soft assignment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from halut.ops.core.checks import check_tables, chunk_rows, compute_dtype
from halut.ops.lookup.accumulate import accumulate, scatter_add

if TYPE_CHECKING:
    from halut.encoders.base import Encoder

BUFFERS = 12
"""Arrays of GC * K values per row an encoder's `assign` is taken to keep for its backward."""


def relaxed_matmul(
    encoder: Encoder,
    inputs: Tensor,
    lut: Tensor,
    table: Tensor,
    tau: Tensor,
    relax: float = 1.0,
) -> Tensor:
    """accumulate(encoder.encode(inputs), table), [N, G * M], with the gradient of assign.

    inputs [N, T], lut and table [G, C, K, M], tau as `encoder.assign` takes it. Backward, with
    dE[n, c, k] = sum_m grad[n, m] lut[c, k, m]: lut gets scatter_add(codes, grad), the table
    nothing; inputs, tau and the encoder's parameters get relax * dE pulled through
    `encoder.assign`, which is recomputed chunk by chunk. Raises HalutError on shapes that do not
    fit.
    """
    codes = encoder.encode(inputs.detach())
    check_tables(lut, table, codes.shape[1])
    names = [name for name, _ in encoder.named_parameters()]
    given = (encoder, names, codes, inputs, lut, table, tau, relax)
    return _RelaxedMatmul.apply(*given, *encoder.parameters())


class _RelaxedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx, encoder, names, codes, inputs, lut, table, tau, relax, *parameters):
        ctx.encoder, ctx.names, ctx.relax = encoder, names, relax
        ctx.save_for_backward(codes, inputs, lut, tau, *parameters)
        return accumulate(codes, table)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        codes, inputs, lut, tau, *parameters = ctx.saved_tensors
        _, _, _, need_inputs, need_lut, _, need_tau, _, *need_parameters = ctx.needs_input_grad
        dlut = None
        if need_lut:
            dlut = scatter_add(codes, grad, lut.shape[0], lut.shape[2]).to(lut.dtype)
        if not ctx.relax or not (need_inputs or need_tau or any(need_parameters)):
            return None, None, None, None, dlut, *[None] * (3 + len(parameters))
        named = dict(zip(ctx.names, parameters, strict=True))
        dinputs, dtau, *rest = pull(ctx.encoder, inputs, lut, tau, grad, ctx.relax, named)
        wanted = [
            value if need else None for value, need in zip(rest, need_parameters, strict=True)
        ]
        return (
            *(None, None, None, dinputs if need_inputs else None, dlut),
            *(None, dtau if need_tau else None, None, *wanted),
        )


class _Assign(nn.Module):
    """`assign` of an encoder as a module's forward, so that it can be called with parameters."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor, tau: Tensor) -> Tensor:
        return self.encoder.assign(inputs, tau)


def pull(
    encoder: Encoder,
    inputs: Tensor,
    lut: Tensor,
    tau: Tensor,
    grad: Tensor,
    relax: float,
    parameters: Mapping[str, Tensor],
) -> list[Tensor]:
    """Gradients of inputs, tau and the encoder's parameters: relax * dE through encoder.assign.

    `parameters` are what the forward was computed with, by name. They are given, not read from the
    encoder: where a checkpoint recomputes them they are other tensors than its own.
    """
    G, C, K, M = lut.shape
    dtype = compute_dtype(lut.dtype)
    entries = (lut.detach().to(dtype) * relax).view(G, C * K, M)
    tau = tau.detach().requires_grad_()
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    assign = _Assign(encoder)
    named = {f"encoder.{name}": value for name, value in leaves.items()}
    dinputs = torch.empty_like(inputs)
    sums = [torch.zeros_like(value) for value in (tau, *leaves.values())]
    step = chunk_rows(BUFFERS * G * C * K * entries.element_size(), inputs.device)
    for start in range(0, inputs.shape[0], step):
        rows = slice(start, start + step)
        columns = grad[rows].to(dtype).view(-1, G, M).transpose(0, 1)
        products = torch.bmm(columns, entries.transpose(1, 2))  # [G, n, C * K]
        part = inputs[rows].detach().requires_grad_()
        with torch.enable_grad():
            soft = functional_call(assign, named, (part, tau))
        products = products.transpose(0, 1).reshape(soft.shape).to(soft.dtype)
        dpart, *rest = torch.autograd.grad(
            soft, [part, tau, *leaves.values()], products, allow_unused=True
        )
        dinputs[rows] = 0 if dpart is None else dpart
        for total, value in zip(sums, rest, strict=True):
            if value is not None:
                total += value
    return [dinputs, *sums]
