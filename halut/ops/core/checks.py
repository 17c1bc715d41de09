"""Argument checks of the operators: shapes, dtypes and devices, with one clear message each."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.errors import HalutError

WORKSPACE = {"cpu": 16 << 20}
"""Bytes a backward chunk may take by device: what stays in a CPU's caches; 64 MiB elsewhere."""


def workspace(device: torch.device) -> int:
    """Bytes of temporary storage an operator may take on this device."""
    return WORKSPACE.get(device.type, 64 << 20)


def chunk_rows(row_bytes: int, device: torch.device) -> int:
    """Rows per chunk such that temporaries of row_bytes per row stay in the workspace."""
    return max(1, workspace(device) // max(1, row_bytes))


def check_floating(name: str, value: Tensor, ndim: int) -> None:
    """Raise HalutError unless value is a floating tensor of ndim dimensions."""
    if not value.is_floating_point():
        raise HalutError(f"{name} must be floating, got {value.dtype}")
    if value.ndim != ndim:
        raise HalutError(f"{name} must have {ndim} dimensions, got {list(value.shape)}")


def check_same_device(**tensors: Tensor) -> None:
    """Raise HalutError unless all tensors are on one device."""
    devices = {name: str(value.device) for name, value in tensors.items()}
    if len(set(devices.values())) > 1:
        raise HalutError(f"tensors are on different devices: {devices}")


def check_codes(codes: Tensor, total: int) -> None:
    """Raise HalutError unless codes are [N, total] uint8."""
    if codes.dtype != torch.uint8:
        raise HalutError(f"codes must be uint8, got {codes.dtype}")
    if codes.ndim != 2 or codes.shape[1] != total:
        raise HalutError(f"codes must be [N, {total}], got {list(codes.shape)}")


def check_prototypes(K: int) -> None:
    """Raise HalutError unless codes in [0, K) fit into a byte."""
    if not 2 <= K <= 256:
        raise HalutError(f"K must be in 2..256, got {K}")


def check_table(name: str, table: Tensor) -> None:
    """Raise HalutError unless table is [G, C, K, M], not empty, with K in 2..256."""
    if table.ndim != 4 or 0 in table.shape:
        raise HalutError(f"{name} must be [G, C, K, M] and not empty, got {list(table.shape)}")
    check_prototypes(table.shape[2])


def check_tables(lut: Tensor, table: Tensor, total: int) -> None:
    """Raise HalutError unless lut and table are alike, floating, and of `total` codebooks."""
    check_floating("lut", lut, 4)
    check_table("lut", lut)
    if table.shape != lut.shape or table.dtype != lut.dtype:
        raise HalutError(
            f"table must be like lut {list(lut.shape)} {lut.dtype}, "
            f"got {list(table.shape)} {table.dtype}"
        )
    if lut.shape[0] * lut.shape[1] != total:
        raise HalutError(
            f"lut {list(lut.shape)} has {lut.shape[0] * lut.shape[1]} codebooks, inputs {total}"
        )


def check_tau(tau: Tensor, total: int) -> None:
    """Raise HalutError unless tau is a floating scalar or one value per codebook."""
    if not tau.is_floating_point() or tau.shape not in ((), (1,), (total,)):
        raise HalutError(
            f"tau must be a floating scalar or [{total}], got {tau.dtype} {list(tau.shape)}"
        )


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype arithmetic runs in: float64 stays, everything narrower becomes float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
