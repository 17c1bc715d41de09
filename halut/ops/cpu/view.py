"""Encoder input descriptor of the kernels: the struct View of kernels/cpu/view.h."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from halut.ops.geometry import ConvGeometry, check_taps

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int8: 3}
"""The element types kernels read."""
NUMBERS = {**DTYPES, torch.int32: 4, torch.uint8: 5}
"""The numbers of enum Dtype: int32 is for sums alone, uint8 for tree layers."""


def view(x: Tensor, geometry: ConvGeometry | None = None) -> tuple[int, ...]:
    """The fields of View: rows x [N, D], or the im2col rows of a map x [B, C, H, W].

    Any strides will do. The caller keeps x alive while the kernel runs, and has checked that the
    kernel's window fits the map.
    """
    size: tuple[int, ...]
    strides: tuple[int, ...]
    if geometry is None:
        N, D = x.shape
        size, strides = (N, D, 1, 1), (*x.stride(), 0, 0)
        geometry = ConvGeometry((1, 1))
    else:
        size, strides = tuple(x.shape), x.stride()
    left, _, top, _ = geometry.padding
    return (
        x.data_ptr(),
        NUMBERS.get(x.dtype, -1),  # -1: for kernels that move elements and read none
        *size,
        *strides,
        *geometry.kernel_size,
        *geometry.stride,
        *geometry.dilation,
        left,
        top,
        *geometry.output_size(size[2], size[3]),
    )


def refuse(taps: Tensor, columns: int) -> NoReturn:
    """Say why a kernel answered false: a tap is no column, or there was no memory."""
    check_taps(taps, columns)
    raise MemoryError("the kernel could not allocate its scratch")
