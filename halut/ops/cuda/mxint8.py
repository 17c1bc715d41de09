"""MXINT8 to floats by kernels/cuda/mxint8.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.ops.core import dispatch
from halut.ops.cuda import launch
from halut.ops.cuda.lookup import NAMES

THREADS = 256


def _supports(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> bool:
    return launch.available()


@dispatch.implementation("mxint8_dequantize", "cuda", devices=("cuda",), supports=_supports)
def mxint8_dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Four neighbors per thread, or one where rows or addresses are no multiples of four."""
    codes, scales = codes.contiguous(), scales.contiguous()
    out = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    C = codes.shape[-1]
    count = 4 if C % 4 == 0 and codes.data_ptr() % 4 == 0 else 1
    blocks = -(-codes.numel() // (count * THREADS))
    kernel = f"mxint8_{NAMES[dtype]}_{count}"
    launch.launch(
        *("mxint8", kernel, codes.device, (blocks, THREADS)),
        *(codes, scales, out, codes.numel() // C, C),
    )
    return out
