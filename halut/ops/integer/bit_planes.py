"""Packed bit planes of activation codes, the input of bit products.

    code[n, c] = table[number of t with x[n, c] >= thresholds[t]]

and bit c % 8 of byte c / 8 of plane j of row n is bit j of that code. NaN passes no threshold.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.core.checks import check_same_device

MAX_PLANES = 8


def bit_planes(x: Tensor, thresholds: Tensor, table: Tensor, planes: int, groups: int) -> Tensor:
    """Packed planes uint8 [B, H, W, G, J, ceil(C / 8)] of a map x [B, G * C, H, W], or of rows
    [N, G * C], which are maps of one pixel; bits behind the C inputs of a group are zero.

    x floating (compared in float32), thresholds float32 [T <= 255] ascending, table uint8 [T + 1],
    planes = J in 1..8. Raises HalutError on other dtypes, shapes or devices.
    """
    if not x.is_floating_point() or x.ndim not in (2, 4):
        raise HalutError(f"x must be floating rows or maps, got {x.dtype} {list(x.shape)}")
    if thresholds.dtype != torch.float32 or thresholds.ndim != 1 or len(thresholds) > 255:
        raise HalutError(
            f"thresholds must be float32 [T <= 255], got {thresholds.dtype} "
            f"{list(thresholds.shape)}"
        )
    if table.dtype != torch.uint8 or table.shape != (len(thresholds) + 1,):
        raise HalutError(
            f"table must be uint8 [{len(thresholds) + 1}], got {table.dtype} {list(table.shape)}"
        )
    if not 1 <= planes <= MAX_PLANES:
        raise HalutError(f"planes must be in 1..{MAX_PLANES}, got {planes}")
    if groups < 1 or x.shape[1] == 0 or x.shape[1] % groups:
        raise HalutError(f"{groups} groups do not divide the inputs of x {list(x.shape)}")
    check_same_device(x=x, thresholds=thresholds, table=table)
    return torch.ops.halut.bit_planes(x, thresholds, table, planes, groups)


def planes_shape(x: Tensor, planes: int, groups: int) -> tuple[int, ...]:
    """The answer's shape."""
    B, inputs, H, W = x.shape if x.ndim == 4 else (*x.shape, 1, 1)
    return B, H, W, groups, planes, -(-(inputs // groups) // 8)


@torch.library.custom_op("halut::bit_planes", mutates_args=())
def _bit_planes(x: Tensor, thresholds: Tensor, table: Tensor, planes: int, groups: int) -> Tensor:
    if x.numel() == 0:
        return x.new_empty(planes_shape(x, planes, groups), dtype=torch.uint8)
    return dispatch.run("bit_planes", x.device, x.float(), thresholds, table, planes, groups)


@_bit_planes.register_fake
def _(x: Tensor, thresholds: Tensor, table: Tensor, planes: int, groups: int) -> Tensor:
    return x.new_empty(planes_shape(x, planes, groups), dtype=torch.uint8)


@dispatch.implementation("bit_planes", "torch")
def bit_planes_torch(
    x: Tensor, thresholds: Tensor, table: Tensor, planes: int, groups: int
) -> Tensor:
    """Codes by counting, planes by shifts."""
    passed = torch.zeros_like(x, dtype=torch.int32)
    for t in thresholds:
        passed += x >= t
    codes = table[passed.long()]
    codes = codes[:, :, None, None] if x.ndim == 2 else codes
    return packed_planes(codes.permute(0, 2, 3, 1).unflatten(-1, (groups, -1)), planes)


def packed_planes(codes: Tensor, planes: int) -> Tensor:
    """codes uint8 [.., C] -> planes uint8 [.., J, ceil(C / 8)]."""
    shift = torch.arange(planes, device=codes.device, dtype=torch.uint8)
    bits = (codes[..., None, :] >> shift[:, None]) & 1
    bits = F.pad(bits, (0, -codes.shape[-1] % 8)).unflatten(-1, (-1, 8))
    eight = torch.arange(8, device=codes.device, dtype=torch.uint8)
    return (bits << eight).sum(-1, dtype=torch.uint8)
