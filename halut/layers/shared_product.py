"""Autograd functions of table products with shared codes: one encode, one encoder gradient.

Layers of one input and one encoder differ by their tables i alone. `encode` finds the codes, and
every `product` or `answer` looks them up in a table of its own:

    y_i[n, g, m] = sum_c table_i[g, c, codes[n, g, c], m]

In the backward pass each scatters its own dlut_i and leaves its gradient with the node of the
codes. Autograd runs that node when all products in this pass have run; the relaxed gradient
depends on them through dE = sum_i grad_i lut_i' only, which is one product of the gradients side
by side with the tables side by side, and is pulled through the encoder once. A product that is
not in the pass has no part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halut.encoders import Encoder, LookupTable, as_answer
from halut.ops.core import dispatch
from halut.ops.core.bypass import can_bypass_dispatcher
from halut.ops.core.checks import check_tables
from halut.ops.core.finite import marked
from halut.ops.epilogue import reshape_output
from halut.ops.geometry import ConvGeometry
from halut.ops.layer.checks import check_answer
from halut.ops.lookup.accumulate import accumulate, scatter_add
from halut.ops.lookup.columns import empty_gradient

Parts = dict[int, list[tuple[Tensor, Tensor]]]
"""Gradients [N, G * M_i] and luts [G, C, K, M_i] that wait for their node, by backward pass."""

ROWS = (1 << 12, 1 << 16)
"""Rows whose gradients are laid side by side at once, on a CPU and on a GPU."""


@dataclass(frozen=True, eq=False)
class SharedCodes:
    """The codes of one input, in place of the encoder of a layer that reads it.

    codes [N, G * C] uint8; `node`, a zero that leads autograd to the encoder; `keeps_layout` is
    the encoder's. Values are those of the encoder itself, gradients equal them up to rounding.
    """

    values: Tensor
    node: Tensor
    parts: Parts
    keeps_layout: bool = False

    def codes(self, x: Tensor, geometry: ConvGeometry | None = None) -> Tensor:
        """Encoder.codes of the input, which x is."""
        return self.values

    def lookup(
        self,
        x: Tensor,
        geometry: ConvGeometry | None,
        table: LookupTable,
        tau: Tensor,
        ste_mix: float = 1.0,
    ) -> Tensor:
        """Encoder.lookup of the input x; tau and ste_mix are those it was encoded with."""
        lut, entries, shift, scale, _ = table
        groups = entries.shape[0]
        if scale is None or shift is None or lut.dtype != torch.float32:
            y = table.apply_scale(product(self, *table.in_units_of_scale()))
            return as_answer(y, x, geometry, groups)
        if geometry is None or not self.keeps_layout:
            return as_answer(answer(self, lut, entries, scale, shift), x, geometry, groups)
        like = x.detach(), geometry
        return marked(answer(self, lut, entries, scale, shift, like), x, geometry, groups)

    def sums(
        self,
        x: Tensor,
        geometry: ConvGeometry | None,
        lut: Tensor,
        entries: Tensor,
        tau: Tensor,
        ste_mix: float,
    ) -> Tensor:
        """Encoder.sums of the input, which x is."""
        return product(self, lut, entries)


def encode(
    encoder: Encoder, x: Tensor, geometry: ConvGeometry | None, tau: Tensor, ste_mix: float = 1.0
) -> SharedCodes:
    """The codes of rows or of a map, ready for any number of products.

    tau and ste_mix as in Encoder.lookup. In the backward pass x, tau and the encoder's parameters
    get what Encoder.gradient gives for all products together.
    """
    parts: Parts = {}
    names, parameters = [], []
    for name, parameter in encoder.named_parameters():
        names.append(name)
        parameters.append(parameter)
    arguments = (encoder, parts, names, x, geometry, tau, ste_mix)
    node, codes = _Encode.apply(*arguments, *parameters)
    return SharedCodes(codes, node, parts, encoder.keeps_layout)


def product(encoded: SharedCodes, lut: Tensor, table: Tensor) -> Tensor:
    """accumulate(codes, table), [N, G * M], with the gradient of Encoder.lookup.

    lut and table [G, C, K, M]; raises HalutError on shapes that do not fit.
    """
    check_tables(lut, table, encoded.values.shape[1])
    return _Product.apply(encoded.parts, encoded.node, encoded.values, lut, table)


def answer(
    encoded: SharedCodes,
    lut: Tensor,
    table: Tensor,
    scale: Tensor,
    bias: Tensor,
    like: tuple[Tensor, ConvGeometry] | None = None,
) -> Tensor:
    """scale * accumulate(codes, table) + bias: rows [N, G * M], with the gradient of tree_train.

    lut [G, C, K, M] float32 and table int8 alike, scale (no gradient) and bias [G * M] float32.
    With `like`, a map and its geometry, the answer is a map [B, G * M, OH, OW] laid out alike.
    Raises HalutError on shapes that do not fit.
    """
    check_tables(lut, lut, encoded.values.shape[1])
    check_answer(table, table.new_empty(0, dtype=torch.uint8), scale, bias, None, torch.float32)
    return _Answer.apply(encoded.parts, encoded.node, encoded.values, lut, table, scale, bias, like)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        encoder: Encoder,
        parts: Parts,
        names: Sequence[str],
        x: Tensor,
        geometry: ConvGeometry | None,
        tau: Tensor,
        ste_mix: float,
        *parameters: Any,
    ) -> tuple[Tensor, ...]:
        codes = encoder.codes(x, geometry)
        ctx.encoder, ctx.parts, ctx.names = encoder, parts, names
        ctx.geometry, ctx.ste_mix = geometry, ste_mix
        ctx.save_for_backward(x, tau, *parameters)
        ctx.mark_non_differentiable(codes)
        return torch.zeros((), device=x.device), codes

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *_: Any) -> tuple[Tensor | None, ...]:
        waiting = ctx.parts.pop(torch._C._current_graph_task_id(), [])
        x, tau, *parameters = ctx.saved_tensors
        if not waiting or not ctx.ste_mix:
            return (None,) * (7 + len(parameters))
        by_name = dict(zip(ctx.names, parameters, strict=True))
        dx, dtau, *rest = _gradient(ctx, waiting, x, tau, by_name)
        values = (None, None, None, dx, None, dtau, None, *rest)
        return tuple(
            value if need else None
            for value, need in zip(values, ctx.needs_input_grad, strict=True)
        )


def _gradient(
    ctx: Any, waiting: list[tuple[Tensor, Tensor]], x: Tensor, tau: Tensor, by_name: Any
) -> tuple[Tensor, ...]:
    """Encoder.gradient of all products together: dx, dtau and those of the parameters.

    Rows are taken in parts, as a copy of all gradients side by side would be the largest tensor.
    """
    grads, luts = zip(*waiting, strict=True)
    waiting.clear()
    if len(grads) == 1 or x.shape[0] == 0:
        grad = grads[0] if len(grads) == 1 else torch.cat(grads, 1)
        lut = luts[0] if len(luts) == 1 else torch.cat(luts, 3)
        return ctx.encoder.gradient(x, ctx.geometry, grad, lut, tau, ctx.ste_mix, by_name)
    lut, per_item = torch.cat(luts, 3), grads[0].shape[0] // x.shape[0]
    dx = empty_gradient(x)
    sums: list[Tensor] = []
    step = max(1, ROWS[x.device.type == "cuda"] // per_item)
    for start in range(0, x.shape[0], step):
        part = x[start : start + step]
        rows = slice(start * per_item, (start + len(part)) * per_item)
        grouped = [grad[rows].unflatten(1, (lut.shape[0], -1)) for grad in grads]
        grad = torch.cat(grouped, 2).flatten(1)
        arguments = (part, ctx.geometry, grad, lut, tau, ctx.ste_mix, by_name)
        dx[start : start + step], *rest = ctx.encoder.gradient(*arguments)
        sums = [a + b for a, b in zip(sums, rest, strict=True)] if sums else rest
    return dx, *sums


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, parts: Parts, node: Tensor, codes: Tensor, lut: Tensor, table: Tensor
    ) -> Tensor:
        _keep(ctx, parts, node, codes, lut)
        return accumulate(codes, table)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_pass_on(ctx, grad, ctx.needs_input_grad[3]), None


class _Answer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        parts: Parts,
        node: Tensor,
        codes: Tensor,
        lut: Tensor,
        table: Tensor,
        scale: Tensor,
        bias: Tensor,
        like: Tensor,
    ) -> Tensor:
        _keep(ctx, parts, node, codes, lut)
        empty = table.new_empty(0, dtype=torch.uint8)
        arguments = (codes, table, empty, scale, bias, None, torch.float32)
        if like is None:
            return torch.ops.halut.code_layer(*arguments)
        x, geometry = like
        if not can_bypass_dispatcher(codes):  # somebody counts or traces operators
            return reshape_output(torch.ops.halut.code_layer(*arguments), x, geometry)
        return dispatch.run("code_map", codes.device, *arguments, x, geometry)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows = grad if grad.ndim == 2 else grad.permute(0, 2, 3, 1)
        rows = rows.to(torch.float32).reshape(-1, grad.shape[1])
        need_lut, need_bias = ctx.needs_input_grad[3], ctx.needs_input_grad[6]
        passed = _pass_on(ctx, rows, need_lut)
        return None, *passed, None, None, rows.sum(0) if need_bias else None, None


def _keep(ctx: Any, parts: Parts, node: Tensor, codes: Tensor, lut: Tensor) -> None:
    # The node's tensor lives as long as one product of it can still run backward.
    ctx.parts, ctx.node = parts, node
    ctx.save_for_backward(codes, lut)


def _pass_on(ctx: Any, rows: Tensor, need_lut: bool) -> tuple[Tensor | None, None, Tensor | None]:
    """Gradients of (node, codes, lut); the node's own, zero, only makes autograd go there."""
    codes, lut = ctx.saved_tensors
    dnode = None
    if ctx.needs_input_grad[1]:
        task = torch._C._current_graph_task_id()
        ctx.parts.setdefault(task, []).append((rows, lut.detach()))
        dnode = torch.zeros_like(ctx.node)
    dlut = None
    if need_lut:
        dlut = scatter_add(codes, rows, lut.shape[0], lut.shape[2]).to(lut.dtype)
    return dnode, None, dlut
