"""Bit planes and their products by the compiled kernels (kernels/cpu/ops/bit_planes.cpp,
bit_product.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from halut import _kernels  # type: ignore[attr-defined]
from halut.ops.core import dispatch
from halut.ops.cpu.view import view
from halut.ops.geometry import ConvGeometry
from halut.ops.integer.bit_planes import planes_shape

PIXEL = ConvGeometry((1, 1))


@dispatch.implementation("bit_planes", "cpu", devices=("cpu",))
def bit_planes(x: Tensor, thresholds: Tensor, table: Tensor, planes: int, groups: int) -> Tensor:
    """Words of bits from comparisons, straight from the map."""
    x, thresholds, table = x.float(), thresholds.contiguous(), table.contiguous()
    out = torch.empty(planes_shape(x, planes, groups), dtype=torch.uint8, device="cpu")
    where = view(x, PIXEL) if x.ndim == 4 else view(x)
    pointers = thresholds.data_ptr(), table.data_ptr(), out.data_ptr()
    _kernels.bit_planes(where, *pointers, len(thresholds), planes, groups, torch.get_num_threads())
    return out


@dispatch.implementation("bit_product", "cpu", devices=("cpu",))
def bit_product(x: Tensor, w: Tensor, alpha: Tensor, beta: Tensor, bias: Tensor, D: int) -> Tensor:
    """Neighboring outputs in the lanes of a register, blocks of rows in parallel."""
    (N, G, J, W), I, M = x.shape, w.shape[2], w.shape[3]
    values = [value.contiguous() for value in (x, w, alpha, beta, bias)]
    out = torch.empty(N, G * M, device="cpu")
    pointers = [value.data_ptr() for value in (*values, out)]
    done = _kernels.bit_product(
        *pointers, N, G, J, W, I, M, bias.shape[0], D, torch.get_num_threads()
    )
    if not done:
        raise MemoryError("the kernel could not allocate its scratch")
    return out
