"""`conv_taps` and its gradient by kernels/cuda/conv_taps.cu."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from halut.ops.core import dispatch
from halut.ops.cpu.view import view
from halut.ops.cuda import launch
from halut.ops.cuda.lookup import NAMES
from halut.ops.geometry import ConvGeometry, is_channels_last

THREADS = 256
NAMED = {**NAMES, torch.float64: "f64"}


def fits(x: Tensor, geometry: ConvGeometry | None) -> bool:
    """True if the kernels' 32-bit pixel numbers hold x's maps; rows always fit."""
    if geometry is None:
        return True
    OH, OW = geometry.output_size(x.shape[2], x.shape[3])
    return max(x.shape[2] * x.shape[3], OH * OW) < 2**31


def rows_adjacent(x: Tensor, geometry: ConvGeometry | None) -> bool:
    """True if neighboring rows of x are closer in memory than neighboring columns."""
    if geometry is None:
        return x.stride(0) < x.stride(1)
    return x.stride(3) < x.stride(1)


def _supports(x: Tensor, taps: Tensor, geometry: ConvGeometry) -> bool:
    return x.element_size() <= 8 and fits(x, geometry) and launch.available()


@dispatch.implementation("conv_taps", "cuda", devices=("cuda",), supports=_supports)
def conv_taps(x: Tensor, taps: Tensor, geometry: ConvGeometry) -> Tensor:
    """One thread per element, in the order of the result's memory."""
    OH, OW = geometry.output_size(x.shape[2], x.shape[3])
    rows, T = x.shape[0] * OH * OW, taps.shape[0]
    by_row = not is_channels_last(x)
    out = torch.empty((T, rows) if by_row else (rows, T), dtype=x.dtype, device=x.device)
    kernel, grid = f"conv_taps_{x.element_size()}", (-(-rows * T // THREADS), THREADS)
    launch.launch(
        *("conv_taps", kernel, x.device, grid),
        *(view(x, geometry), taps.contiguous(), out, rows, T, by_row),
    )
    return out.t() if by_row else out


def readers(taps: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Who reads what: positions of taps by column read [T], and where each column's begin."""
    values, order = torch.sort(taps, stable=True)
    return order, torch.searchsorted(values, torch.arange(columns + 1, device=taps.device))


def add_columns(
    grad: Tensor, who: tuple[Tensor, Tensor], dx: Tensor, geometry: ConvGeometry | None
) -> None:
    """Fill dx, rows or maps, with the sums of the columns grad [N, T] that `who` read there."""
    channels_last = geometry is None or is_channels_last(dx)
    kernel = f"conv_taps_gradient_{NAMED[grad.dtype]}_{NAMED[dx.dtype]}"
    launch.launch(
        *("conv_taps", kernel, dx.device, (-(-dx.numel() // THREADS), THREADS)),
        *(view(dx, geometry), grad, *who, *grad.stride(), channels_last),
    )


def _supports_gradient(
    grad: Tensor, taps: Tensor, size: Sequence[int], channels_last: bool, geometry: ConvGeometry
) -> bool:
    fit = max(size[2] * size[3], grad.shape[0]) < 2**31
    return grad.dtype in NAMED and fit and launch.available()


@dispatch.implementation(
    "conv_taps_gradient", "cuda", devices=("cuda",), supports=_supports_gradient
)
def conv_taps_gradient(
    grad: Tensor, taps: Tensor, size: Sequence[int], channels_last: bool, geometry: ConvGeometry
) -> Tensor:
    """Every element of the map adds up the columns that read it: in a fixed order, no atomics."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    dx = torch.empty(tuple(size), dtype=grad.dtype, device=grad.device, memory_format=layout)
    columns = size[1] * geometry.kernel_size[0] * geometry.kernel_size[1]
    add_columns(grad, readers(taps, columns), dx, geometry)
    return dx
