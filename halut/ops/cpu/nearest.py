"""Nearest prototypes by the compiled kernels: kernels/cpu/ops/nearest.cpp, nearest_gradient.cpp."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from halut import _kernels  # type: ignore[attr-defined]
from halut.ops.core import dispatch
from halut.ops.core.finite import marked
from halut.ops.cpu.finite import finite
from halut.ops.cpu.layer import shuffled, sums_of_codes
from halut.ops.cpu.view import DTYPES, view
from halut.ops.epilogue import empty_output
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.columns import column_count, row_count, zero_gradient
from halut.ops.nearest.distance import METRICS

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
ROWS = 9 * 64
"""Rows whose products are taken at once; an odd number of tiles keeps them off the same sets."""
PRODUCTS = 1 << 20
"""Bytes of products per thread: what stays in the second-level cache."""

# Codes are the same on every level because each rounds a * b + c once; an x86 without that
# instruction does it in software, and is faster in torch.
_FUSED = len(_kernels.levels()) > 1 or platform.machine().lower() not in ("x86_64", "amd64", "i686")


def _supports_encode(x: Tensor, prototypes: Tensor, *_: Any) -> bool:
    return _FUSED and x.dtype in DTYPES and prototypes.dtype in FLOATS


@dispatch.implementation("nearest_encode", "cpu", devices=("cpu",), supports=_supports_encode)
def nearest_encode(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int,
    geometry: ConvGeometry | None = None,
) -> Tensor:
    """Tiles of 64 rows against all prototypes, read from x in place; blocks of rows in parallel."""
    GC, K, _ = prototypes.shape
    codes = torch.empty(row_count(x, geometry), GC, dtype=torch.uint8, device="cpu")
    p = prototypes.to(torch.float32).contiguous()
    _kernels.nearest_encode(
        view(x, geometry),
        p.data_ptr(),
        codes.data_ptr(),
        column_count(x, geometry) // groups,
        GC // groups,
        groups,
        K,
        METRICS.index(metric),
        torch.get_num_threads(),
    )
    return codes


def _supports_gradient(grad: Tensor, x: Tensor, prototypes: Tensor, lut: Tensor, *_: Any) -> bool:
    return all(value.dtype in FLOATS for value in (grad, x, prototypes, lut))


@dispatch.implementation("nearest_gradient", "cpu", devices=("cpu",), supports=_supports_gradient)
def nearest_gradient(
    grad: Tensor,
    x: Tensor,
    prototypes: Tensor,
    lut: Tensor,
    tau: Tensor,
    metric: str,
    ste_mix: float,
    geometry: ConvGeometry | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Products of a block of rows and codebooks by torch, everything after them in one pass."""
    G, C, K, M = lut.shape
    N, GC = row_count(x, geometry), G * C
    grad, lut = grad.to(torch.float32).contiguous(), lut.to(torch.float32).contiguous()
    p = prototypes.to(torch.float32).contiguous()
    inverse = (1 / tau.to(torch.float32)).expand(GC).contiguous()
    dx = zero_gradient(x, torch.float32)
    dp, dinverse = torch.zeros_like(p), torch.zeros(GC, device="cpu")
    arrays = [value.data_ptr() for value in (p, inverse)], [v.data_ptr() for v in (dp, dinverse)]
    sizes = column_count(x, geometry) // G, C, G, K, METRICS.index(metric)
    views, threads = (view(x, geometry), view(dx, geometry)), torch.get_num_threads()
    rows = max(1, min(N, ROWS))
    together = max(1, PRODUCTS * threads // (4 * K * rows))
    block = torch.empty(min(together, GC) * K * rows, device="cpu")
    for groups, codebooks in _blocks(G, C, together):
        entries = lut[groups, codebooks].flatten(1, 2)  # [groups, codebooks * K, M]
        first = groups.start * C + codebooks.start
        last = first + entries.shape[0] * entries.shape[1] // K
        for n0 in range(0, N, rows):
            n1 = min(n0 + rows, N)
            columns = grad[n0:n1].view(n1 - n0, G, M)[:, groups].permute(1, 2, 0)
            products = block[: (last - first) * K * (n1 - n0)].view(*entries.shape[:2], n1 - n0)
            _multiply(entries, columns, products)
            span = first, last, n0, n1, threads
            _kernels.nearest_gradient(
                *views, products.data_ptr(), n1 - n0, *arrays[0], ste_mix, *arrays[1], *sizes, *span
            )
    dtau = -dinverse * inverse.square()
    dtau = dtau.view(tau.shape) if tau.numel() == GC else dtau.sum().view(tau.shape)
    return dx.to(x.dtype), dp.to(prototypes.dtype), dtau.to(tau.dtype)


def _blocks(G: int, C: int, codebooks_at_once: int) -> Iterator[tuple[slice, slice]]:
    """Groups and codebooks, `codebooks_at_once` at most: several groups, or a part of one."""
    if codebooks_at_once >= C:
        for g in range(0, G, codebooks_at_once // C):
            yield slice(g, min(g + codebooks_at_once // C, G)), slice(0, C)
        return
    for g in range(G):
        for c in range(0, C, codebooks_at_once):
            yield slice(g, g + 1), slice(c, min(c + codebooks_at_once, C))


def _multiply(entries: Tensor, columns: Tensor, out: Tensor) -> None:
    """out [g, ck, n] = entries [g, ck, M] times columns [g, M, n]."""
    if entries.shape[2] == 1:
        torch.mul(entries, columns, out=out)
    elif entries.shape[0] == 1:
        torch.mm(entries[0], columns[0], out=out[0])
    else:
        torch.bmm(entries, columns, out=out)


def _supports_layer(
    x: Tensor, prototypes: Tensor, metric: str, groups: int, table: Tensor, *_: Any
) -> bool:
    return _supports_encode(x, prototypes) and shuffled(x, table)


@dispatch.implementation("nearest_layer", "cpu", devices=("cpu",), supports=_supports_layer)
def nearest_layer(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    geometry: ConvGeometry | None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """Codes, the only intermediate, then the shuffles, sums and scaling of `tree_layer`."""
    codes = nearest_encode(x, prototypes, metric, groups, geometry)
    out = empty_output(x, scale.shape[0], dtype, geometry)
    added = (residual, residual_scale)
    y = sums_of_codes(codes, table, packed, scale, bias, low, out, *added)
    return y if finite(x) else marked(y, x, geometry, groups)
