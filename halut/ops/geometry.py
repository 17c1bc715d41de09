"""Geometry of a convolution: kernel size, stride, padding and dilation of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.errors import HalutError


@dataclass(frozen=True)
class ConvGeometry:
    """A convolution's window. `padding` is (left, right, top, bottom) in pixels.

    With `same` it depends on the size of the map, as in TensorFlow: ceil(size / stride) outputs,
    the odd pixel right and below; `padding` is not read then.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    same: bool = False

    def pads(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(left, right, top, bottom) for a map of height x width."""
        if not self.same:
            return self.padding
        total = [
            max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, k, s, d in zip(
                (height, width), self.kernel_size, self.stride, self.dilation, strict=True
            )
        ]
        return (
            total[1] // 2,
            total[1] - total[1] // 2,
            total[0] // 2,
            total[0] - total[0] // 2,
        )

    def on(self, x: Tensor) -> ConvGeometry:
        """The same for maps of the size of x [B, C_in, H, W], its padding in pixels."""
        if not self.same:
            return self
        make = _on.__wrapped__ if torch.compiler.is_compiling() else _on
        return make(self, x.shape[2], x.shape[3])

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(OH, OW) of a map of height x width pixels."""
        left, right, top, bottom = self.pads(height, width)
        (kh, kw), (dh, dw), (sh, sw) = self.kernel_size, self.dilation, self.stride
        rows = (height + top + bottom - dh * (kh - 1) - 1) // sh + 1
        return rows, (width + left + right - dw * (kw - 1) - 1) // sw + 1

    @cached_property
    def numbers(self) -> list[int]:
        """Kernel, stride, padding in pixels, dilation: ten numbers, as operators take them."""
        return [*self.kernel_size, *self.stride, *self.padding, *self.dilation]

    @staticmethod
    def of_window(
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> ConvGeometry:
        """The geometry of lists of numbers, as operators take them."""
        (kh, kw), (sh, sw), (dh, dw) = kernel_size, stride, dilation
        left, right, top, bottom = padding
        return ConvGeometry((kh, kw), (sh, sw), (left, right, top, bottom), (dh, dw))

    @staticmethod
    @lru_cache(maxsize=1024)
    def of_numbers(numbers: tuple[int, ...]) -> ConvGeometry | None:
        """The geometry of ten numbers, None (rows, no map) of none."""
        if not numbers:
            return None
        kh, kw, sh, sw, left, right, top, bottom, dh, dw = numbers
        return ConvGeometry((kh, kw), (sh, sw), (left, right, top, bottom), (dh, dw))


@lru_cache(maxsize=256)
def _on(geometry: ConvGeometry, height: int, width: int) -> ConvGeometry:
    """One object for equal maps: prepared calls know it again by that."""
    return replace(geometry, padding=geometry.pads(height, width), same=False)


def pad(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """x [B, C_in, H, W] with the zeros the convolution adds around it."""
    pads = geometry.pads(x.shape[2], x.shape[3])
    return F.pad(x, pads) if any(pads) else x


def check_window(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> None:
    """Raise HalutError unless the window is one, and fits the map x [B, Cin, H, W]."""
    sizes = (len(kernel_size), len(stride), len(padding), len(dilation))
    if sizes != (2, 2, 4, 2) or min(*kernel_size, *stride, *dilation) < 1 or min(padding) < 0:
        raise HalutError(
            "kernel_size, stride and dilation are two positive numbers, padding four of 0 or "
            f"more: got {kernel_size}, {stride}, {dilation}, {padding}"
        )
    geometry = ConvGeometry.of_window(kernel_size, stride, padding, dilation)
    if min(geometry.output_size(x.shape[2], x.shape[3])) < 1:
        raise HalutError(f"a map of {list(x.shape[2:])} pixels is smaller than {geometry}")


def check_taps(taps: Tensor, columns: int) -> None:
    """Raise HalutError unless taps are columns of rows that have so many."""
    # On a GPU this would wait for the device at every call; indexing there asserts by itself.
    if taps.device.type == "cpu" and bool(((taps < 0) | (taps >= columns)).any()):
        raise HalutError(f"columns must be in 0..{columns - 1}")


def is_channels_last(x: Tensor) -> bool:
    """True if the channels of a pixel are adjacent in memory, and its planes are not."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
