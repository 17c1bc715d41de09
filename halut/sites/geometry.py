"""How a convolution cuts its patches from a map."""

from __future__ import annotations

from dataclasses import dataclass

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


def pad(x: Tensor, geometry: Geometry) -> Tensor:
    """x [B, C_in, H, W] with the zeros the convolution adds around it."""
    pads = geometry.pads(x.shape[2], x.shape[3])
    return F.pad(x, pads) if any(pads) else x
