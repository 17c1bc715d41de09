"""MXINT8 by the compiled kernel (kernels/cpu/ops/mxint8.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from halut import _kernels  # type: ignore[attr-defined]
from halut.ops.core import dispatch
from halut.ops.cpu.view import DTYPES


@dispatch.implementation("mxint8_dequantize", "cpu", devices=("cpu",))
def mxint8_dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """A block at a time, rows in parallel."""
    codes, scales = codes.contiguous(), scales.contiguous()
    out = torch.empty(codes.shape, dtype=dtype, device="cpu")
    C = codes.shape[-1]
    pointers = codes.data_ptr(), scales.data_ptr(), out.data_ptr()
    _kernels.mxint8_dequantize(
        *pointers, codes.numel() // C, C, DTYPES[dtype], torch.get_num_threads()
    )
    return out
