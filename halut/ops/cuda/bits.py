"""Bit planes and their products by kernels/cuda/bit_planes.cu and bit_product.cu."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halut.ops.core import dispatch
from halut.ops.cpu.view import view
from halut.ops.cuda import launch
from halut.ops.geometry import ConvGeometry
from halut.ops.integer.bit_planes import planes_shape

PIXEL = ConvGeometry((1, 1))
THREADS = 256
PRODUCT_THREADS = 128
PRODUCT_ROWS = 32
PRODUCT_OUTPUTS = 32


def _supports(*_: Any) -> bool:
    return launch.available()


@dispatch.implementation("bit_planes", "cuda", devices=("cuda",), supports=_supports)
def bit_planes(x: Tensor, thresholds: Tensor, table: Tensor, planes: int, groups: int) -> Tensor:
    """A byte of every plane per thread, straight from the map."""
    x, thresholds, table = x.float(), thresholds.contiguous(), table.contiguous()
    shape = planes_shape(x, planes, groups)
    out = torch.empty(shape, dtype=torch.uint8, device=x.device)
    channels_last = x.stride(1) == 1
    where = view(x, PIXEL) if x.ndim == 4 else view(x)
    blocks = -(-out.numel() // planes // THREADS)
    steps = (len(thresholds), planes, groups, channels_last)
    grid = (blocks, THREADS)
    launch.launch(
        *("bit_planes", "bit_planes", x.device, grid), where, thresholds, table, out, *steps
    )
    return out


@dispatch.implementation("bit_product", "cuda", devices=("cuda",), supports=_supports)
def bit_product(x: Tensor, w: Tensor, alpha: Tensor, beta: Tensor, bias: Tensor, D: int) -> Tensor:
    """One output of eight rows per thread, words of the weights side by side."""
    (N, G, J, W), I, M = x.shape, w.shape[2], w.shape[3]
    values = [value.contiguous() for value in (x, w, alpha, beta, bias)]
    out = torch.empty(N, G * M, device=x.device)
    grid = (-(-N // PRODUCT_ROWS) * G * -(-M // PRODUCT_OUTPUTS), PRODUCT_THREADS)
    launch.launch(
        *("bit_product", "bit_product", x.device, grid),
        *(*values, out, N, G, J, W, I, M, bias.shape[0], D),
    )
    return out
