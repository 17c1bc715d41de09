"""Packed integers: entry i of b bits lies at bits i b to i b + b - 1 of the bytes, lowest first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pack(values: NDArray[np.int64], bits: int) -> bytes:
    """Integers of `bits` bits (1..32), two's complement where negative, in C order.

    Widths of 8, 16 and 32 are little-endian integers; two entries of 4 bits share a byte, the first
    in its low half. The bits behind the last entry are zero.

    >>> pack(np.array([1, -1, 7]), 4).hex()
    'f107'
    """
    flat = values.reshape(-1, 1).astype(np.int64)
    planes = (flat >> np.arange(bits)) & 1
    return np.packbits(planes.astype(np.uint8), bitorder="little").tobytes()


def fits(values: NDArray[np.int64], bits: int, signed: bool) -> bool:
    """Whether all values are integers of so many bits."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return not values.size or bool(values.min() >= low and values.max() <= high)
