"""MXINT8 to floats: blocks of 32 bytes, each block with one power of two (OCP Microscaling, 2023).

v[.., i] = codes[.., i] / 64 * 2^(scales[.., i // 32] - 127)
"""

from __future__ import annotations

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.core.checks import check_same_device

BLOCK = 32
NAN = 255
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def mxint8_dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values [.., C] of codes [.., C] int8, -128 too, and scales [.., ceil(C / 32)] uint8 (E8M0).

    The exact value, rounded once to the nearest even number of dtype (float32, bfloat16, float16):
    subnormal numbers come out right, and what is too large becomes infinite, in float32 only
    -128 / 64 * 2^127. The scale 255 stands for NaN. Blocks lie along the last dimension; its last
    one may be shorter. There is no gradient. Raises HalutError on other dtypes, shapes, devices.
    """
    if codes.dtype != torch.int8 or scales.dtype != torch.uint8:
        raise HalutError(
            f"codes must be int8 and scales uint8, got {codes.dtype} and {scales.dtype}"
        )
    if dtype not in DTYPES:
        raise HalutError(f"dtype must be float32, bfloat16 or float16, got {dtype}")
    scale_shape = (*codes.shape[:-1], -(-codes.shape[-1] // BLOCK)) if codes.ndim else None
    if tuple(scales.shape) != scale_shape:
        raise HalutError(
            f"codes [.., C] and scales [.., ceil(C / {BLOCK})] do not fit: "
            f"{list(codes.shape)}, {list(scales.shape)}"
        )
    check_same_device(codes=codes, scales=scales)
    return torch.ops.halut.mxint8_dequantize(codes, scales, dtype)


_library = torch.library.Library("halut", "FRAGMENT")
_library.define(
    "mxint8_dequantize(Tensor codes, Tensor scales, ScalarType dtype) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl(_library, "mxint8_dequantize", "CompositeExplicitAutograd")
def _(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    if codes.numel() == 0:
        return _answer(codes, scales, dtype)
    return dispatch.run("mxint8_dequantize", codes.device, codes, scales, dtype)


@torch.library.register_fake("halut::mxint8_dequantize", lib=_library)
def _answer(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return codes.new_empty(codes.shape, dtype=dtype)


@dispatch.implementation("mxint8_dequantize", "torch")
def mxint8_dequantize_torch(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Products with powers of two: float32 holds all of them, the lowest as subnormal numbers."""
    e = scales.to(torch.int32)
    bits = torch.where(e < 7, 1 << (e + 16).clamp(max=23), e - 6 << 23)
    powers = torch.where(e == NAN, torch.nan, bits.view(torch.float32))
    spread = powers.repeat_interleave(BLOCK, -1)[..., : codes.shape[-1]]
    return (codes.to(torch.float32) * spread).to(dtype).contiguous()
