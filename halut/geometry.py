"""How a convolution cuts its patches from a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """How a convolution cuts its patches. `padding` is (left, right, top, bottom) or "same".

    "same" pads as TensorFlow does, depending on the size of the map: ceil(size / stride) outputs,
    the odd pixel right and below.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] | str
    dilation: tuple[int, int]

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Geometry:
        """Of plain JSON types; raises TypeError for values of other types."""
        geometry = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
        for key, count, least in (
            ("kernel", 2, 1),
            ("stride", 2, 1),
            ("dilation", 2, 1),
            ("padding", 4, 0),
        ):
            value: Any = getattr(geometry, key)
            numbers = isinstance(value, tuple) and all(whole(each, least) for each in value)
            if not (numbers and len(value) == count) and (key, value) != ("padding", "same"):
                raise TypeError(f"{key} must be {count} numbers from {least}, got {value!r}")
        return geometry

    def pads(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(left, right, top, bottom) for a map of height x width."""
        if not isinstance(self.padding, str):
            return self.padding
        total = [
            max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, k, s, d in zip(
                (height, width), self.kernel, self.stride, self.dilation, strict=True
            )
        ]
        return (
            total[1] // 2,
            total[1] - total[1] // 2,
            total[0] // 2,
            total[0] - total[0] // 2,
        )

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output map."""
        left, right, top, bottom = self.pads(height, width)
        padded = (height + top + bottom, width + left + right)
        sizes = [
            (size - (k - 1) * d - 1) // s + 1
            for size, k, s, d in zip(padded, self.kernel, self.stride, self.dilation, strict=True)
        ]
        return sizes[0], sizes[1]


def whole(value: Any, least: int) -> bool:
    """True for an integer, which True is not, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def pad(x: Tensor, geometry: Geometry) -> Tensor:
    """x [B, C_in, H, W] with the zeros the convolution adds around it."""
    pads = geometry.pads(x.shape[2], x.shape[3])
    return F.pad(x, pads) if any(pads) else x
