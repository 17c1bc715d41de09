"""Lower bounds of an operation's time on a device, from ceilings measured on it.

floor = max(bytes / copy, operations / product): what has to be read and written once, at the rate
of a copy within the device; and for products the multiplications and additions, at the rate of a
large product of that precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from halut.bench.cuda.precision import in_tf32
from halut.bench.cuda.timing import Clock, interleaved

COPY_BYTES = 1 << 30
"""Bytes copied within the device to measure its bandwidth."""
PRODUCT_SIZE = 8192
"""Rows, columns and inputs of the product."""


@dataclass(frozen=True)
class Ceilings:
    """`copy`: bytes per second, read and written; `products`: operations per second, by precision,
    a multiplication and an addition being two."""

    copy: float
    products: dict[str, float] = field(default_factory=dict)

    def floor(self, notes: dict[str, Any]) -> float | None:
        """Seconds, of what `work` noted; None if nothing was."""
        if not notes.get("bytes"):
            return None
        rate = self.products.get(notes.get("precision", ""))
        return max(notes["bytes"] / self.copy, notes["operations"] / rate if rate else 0.0)

    def as_dict(self) -> dict[str, Any]:
        """For the results' file."""
        return {
            **asdict(self),
            "units": "copy: bytes read and written per second; products: operations per second",
            "copy_bytes": COPY_BYTES,
            "product_size": PRODUCT_SIZE,
        }


def work(*tensors: Tensor, operations: int = 0, precision: str = "") -> dict[str, Any]:
    """A method's notes: the bytes of what it reads and writes, and a product's operations."""
    return {
        "bytes": sum(tensor.nbytes for tensor in tensors),
        "operations": operations,
        "precision": precision,
    }


def measured(device: str, rounds: int, clock: Clock) -> Ceilings:
    """The ceilings of a device; a precision it has no product for is left out."""
    timing = interleaved({"copy": _copying(device)}, rounds, clock)["copy"]
    products: dict[str, float] = {}
    for name, run in _products(device).items():
        try:
            seconds = interleaved({name: run}, rounds, clock)[name].median
        except RuntimeError:
            continue
        products[name] = 2 * PRODUCT_SIZE**3 / seconds
    return Ceilings(2 * COPY_BYTES / timing.median, products)


def _copying(device: str) -> Callable[[], Tensor]:
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _products(device: str) -> dict[str, Callable[[], Tensor]]:
    size = PRODUCT_SIZE, PRODUCT_SIZE
    a, b = (torch.randint(-9, 10, size, dtype=torch.int8, device=device) for _ in range(2))
    f, g = a.float(), b.float()
    h, k = a.half(), b.half()
    full = lambda: f @ g.t()  # noqa: E731
    return {
        "float32": full,
        "tf32": in_tf32(full),
        "float16": lambda: h @ k.t(),
        "int8": lambda: torch._int_mm(a, b.t()),
    }
