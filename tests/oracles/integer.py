"""Oracles of operators on bytes and bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from halut.ops.integer.bit_planes import planes_shape
from halut.ops.integer.bit_product import combined
from halut.ops.integer.mxint8 import BLOCK, NAN
from halut.ops.integer.sign_magnitude import split


def bit_planes_reference(
    x: Tensor, thresholds: Tensor, table: Tensor, planes: int, groups: int
) -> Tensor:
    """Oracle of `bit_planes`: bit by bit."""
    out = torch.zeros(planes_shape(x, planes, groups), dtype=torch.uint8, device=x.device)
    maps = x.float() if x.ndim == 4 else x.float()[:, :, None, None]
    C = x.shape[1] // groups
    for b, channel, y, z in torch.cartesian_prod(*map(torch.arange, maps.shape)).tolist():
        value = float(maps[b, channel, y, z])
        code = int(table[sum(value >= t for t in thresholds.tolist())])
        g, c = divmod(channel, C)
        for j in range(planes):
            out[b, y, z, g, j, c // 8] |= (code >> j & 1) << (c % 8)
    return out


def bit_product_reference(
    x: Tensor, w: Tensor, alpha: Tensor, beta: Tensor, bias: Tensor, D: int
) -> Tensor:
    """Oracle of `bit_product`: differing bits counted one by one."""
    differ = x[:, :, None, None] ^ w.permute(0, 3, 2, 1)[None, :, :, :, None]  # [N, G, M, I, J, W]
    count = sum(((differ >> bit) & 1) for bit in range(64))
    dots = (D - 2 * count.sum(-1)).float()  # type: ignore[union-attr]
    return combined(dots, alpha, beta) + bias.repeat(x.shape[0] // bias.shape[0], 1)


def mxint8_dequantize_reference(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Oracle: a division and a power in float64, which holds every value exactly."""
    exponent = scales.repeat_interleave(BLOCK, -1)[..., : codes.shape[-1]].double()
    value = codes.double() / 64 * torch.pow(2.0, exponent - 127)
    return torch.where(exponent == NAN, torch.nan, value).to(dtype)


def sign_magnitude_reference(x: Tensor, weight: Tensor) -> Tensor:
    """Oracle: magnitudes multiplied one by one in int64, added or subtracted as signs say."""
    G, _, D = weight.shape
    (minus_x, x_size), (minus_w, w_size) = split(x.reshape(-1, G, 1, D)), split(weight)
    product = x_size.long() * w_size.long()
    return torch.where(minus_x ^ minus_w, -product, product).sum(-1).flatten(1)


def mean_pool_reference(x: Tensor, scale: float, shift: float) -> Tensor:
    """Oracle: a channel at a time, in numpy's float32."""
    answer = np.empty((*x.shape[:2], 1, 1), np.uint8)
    maps = x.numpy()
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            scaled = np.float32(int(maps[b, c].astype(np.int64).sum())) * np.float32(scale)
            answer[b, c] = np.clip(np.rint(scaled + np.float32(shift)), 0, 255)
    return torch.from_numpy(answer)
