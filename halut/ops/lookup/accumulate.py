"""The table product y[n, m] = sum_c table[c, codes[n, c], m], and its transpose, the scatter-add.

Neither builds a tensor of N*C*M elements: both are sums over bags of rows (embedding_bag), of the
table in the forward, of the output gradient, grouped by code, in the backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.core.checks import (
    check_codes,
    check_floating,
    check_prototypes,
    check_same_device,
    check_table,
    compute_dtype,
)

ENTRIES = 1 << 22
"""Codes handled at once: bounds the index tensors, which are wider than the codes."""

EXACT_CODEBOOKS = (1 << 24) // 128
"""Codebooks whose sum of int8 entries is exact in float32."""


def accumulate(codes: Tensor, table: Tensor) -> Tensor:
    """y[n, g, m] = sum_c table[g, c, codes[n, g, c], m].

    codes [N, G * C] uint8 in [0, K), table [G, C, K, M] -> [N, G * M]. A floating table gives its
    own dtype (narrower than float32: summed in float32), differentiable in the table; an int8
    table gives exact int32 sums. N may be 0. Codes of K or more are not looked for.
    Raises HalutError on other dtypes, shapes or devices.
    """
    check_table("table", table)
    check_codes(codes, table.shape[0] * table.shape[1])
    check_same_device(codes=codes, table=table)
    if not (table.is_floating_point() or table.dtype == torch.int8):
        raise HalutError(f"table must be floating or int8, got {table.dtype}")
    return torch.ops.halut.accumulate(codes, table)


def scatter_add(codes: Tensor, grad: Tensor, groups: int, K: int) -> Tensor:
    """out[g, c, k, m] = sum of grad[n, g, m] over the rows n with codes[n, g, c] = k.

    codes [N, G * C] uint8 in [0, K), grad [N, G * M] floating, G = groups -> [G, C, K, M] in
    grad's dtype. The transpose of `accumulate`, and differentiable through it. Raises HalutError
    on other dtypes or shapes.
    """
    check_floating("grad", grad, 2)
    check_prototypes(K)
    if groups < 1 or codes.ndim != 2 or codes.shape[1] % groups or grad.shape[1] % groups:
        raise HalutError(
            f"{groups} groups divide neither codes {list(codes.shape)} nor grad {list(grad.shape)}"
        )
    check_codes(codes, codes.shape[1])
    check_same_device(codes=codes, grad=grad)
    if codes.shape[0] != grad.shape[0] or 0 in (codes.shape[1], grad.shape[1]):
        raise HalutError(
            f"codes {list(codes.shape)} and grad {list(grad.shape)} need equal rows and columns > 0"
        )
    return torch.ops.halut.scatter_add(codes, grad, groups, K)


@torch.library.custom_op("halut::accumulate", mutates_args=())
def _accumulate(codes: Tensor, table: Tensor) -> Tensor:
    return dispatch.run("accumulate", codes.device, codes, table)


@_accumulate.register_fake
def _(codes: Tensor, table: Tensor) -> Tensor:
    dtype = torch.int32 if table.dtype == torch.int8 else table.dtype
    return table.new_empty(codes.shape[0], table.shape[0] * table.shape[3], dtype=dtype)


@torch.library.custom_op("halut::scatter_add", mutates_args=())
def _scatter_add(codes: Tensor, grad: Tensor, groups: int, K: int) -> Tensor:
    return dispatch.run("scatter_add", codes.device, codes, grad, groups, K)


@_scatter_add.register_fake
def _(codes: Tensor, grad: Tensor, groups: int, K: int) -> Tensor:
    return grad.new_empty(groups, codes.shape[1] // groups, K, grad.shape[1] // groups)


def _save_codes(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    codes, other = inputs[:2]
    ctx.save_for_backward(codes)
    ctx.groups = other.shape[0]
    ctx.K = other.shape[2] if other.ndim == 4 else 0


def _accumulate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if not ctx.needs_input_grad[1]:
        return None, None
    (codes,) = ctx.saved_tensors
    return None, torch.ops.halut.scatter_add(codes, grad, ctx.groups, ctx.K)


def _scatter_add_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (codes,) = ctx.saved_tensors
    return None, torch.ops.halut.accumulate(codes, grad), None, None


_accumulate.register_autograd(_accumulate_backward, setup_context=_save_codes)
_scatter_add.register_autograd(_scatter_add_backward, setup_context=_save_codes)


@dispatch.implementation("accumulate", "torch")
def accumulate_torch(codes: Tensor, table: Tensor) -> Tensor:
    """`accumulate` by embedding_bag over the table's rows, in chunks of rows and codebooks."""
    if table.dtype == torch.int8:
        parts = [
            _bag_sums(part, entries.to(torch.float32)).to(torch.int32)
            for part, entries in _exact_parts(codes, table)
        ]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0, dtype=torch.int32)
    return _bag_sums(codes, table.to(compute_dtype(table.dtype))).to(table.dtype)


def _exact_parts(codes: Tensor, table: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Runs of codebooks short enough for exact float32 sums of int8 entries."""
    G, C = table.shape[:2]
    if C <= EXACT_CODEBOOKS:
        yield codes, table
        return
    grouped = codes.reshape(-1, G, C)
    for start in range(0, C, EXACT_CODEBOOKS):
        stop = start + EXACT_CODEBOOKS
        part = grouped[:, :, start:stop]
        yield part.reshape(part.shape[0], -1), table[:, start:stop]


def _bag_sums(codes: Tensor, table: Tensor) -> Tensor:
    G, C, K, M = table.shape
    N = codes.shape[0]
    if N == 0:
        return table.new_zeros(0, G * M)
    rows = table.reshape(G * C * K, M)
    first = torch.arange(0, G * C * K, K, dtype=torch.int32, device=codes.device)
    step = max(1, ENTRIES // (G * C))
    sums = [
        F.embedding_bag((part.to(torch.int32) + first).reshape(-1, C), rows, mode="sum")
        for part in codes.split(step)
    ]
    return (sums[0] if len(sums) == 1 else torch.cat(sums)).view(N, G * M)


@dispatch.implementation("scatter_add", "torch")
def scatter_add_torch(codes: Tensor, grad: Tensor, groups: int, K: int) -> Tensor:
    """`scatter_add` by sorting the codes, so that each entry of the table is a bag of rows."""
    GC, M = codes.shape[1], grad.shape[1] // groups
    out = grad.new_zeros(GC * K, M, dtype=compute_dtype(grad.dtype))
    step = max(1, ENTRIES // GC)
    for part, rows in zip(codes.split(step), grad.split(step), strict=True):
        if part.shape[0]:
            out += _sorted_sums(part, rows.to(out.dtype), groups, K)
    return out.view(groups, GC // groups, K, M).to(grad.dtype)


def _sorted_sums(codes: Tensor, grad: Tensor, groups: int, K: int) -> Tensor:
    N, GC = codes.shape
    # One radix sort of (codebook, code) keys; the narrow key saves passes over memory.
    dtype = torch.int16 if GC * K < 1 << 15 else torch.int32
    entries = torch.arange(GC * K, dtype=dtype, device=codes.device)
    keys = (codes.t().to(dtype) + entries[::K, None]).reshape(-1)
    keys, order = torch.sort(keys, stable=True)
    offsets = torch.searchsorted(keys, entries)
    if groups == 1:
        rows = order.remainder_(N)
    else:  # entry (g, c, n) of the keys belongs to row n * groups + g of the gradient
        group = torch.arange(groups, device=codes.device).repeat_interleave(GC // groups)
        row = torch.arange(0, N * groups, groups, device=codes.device)
        rows = (row + group[:, None]).view(-1)[order]
    return F.embedding_bag(rows, grad.reshape(N * groups, -1), offsets, mode="sum")
