"""Where the inputs of codebooks come from: columns of rows, or of a map's im2col rows.

Columns are numbered as `halut.ops.lookup.conv` lays out im2col rows: channel-major, then the rows
of the kernel, then its columns. No im2col row is built: columns are read where they lie.
"""

from __future__ import annotations

from typing import Protocol

from halut.export.onnx.body import Body

WINDOW = ("kernel_shape", "strides", "pads", "dilations")
"""Attributes of a convolution, as those of ONNX's Conv: pads are (top, left, bottom, right)."""


class Source(Protocol):
    """The input x of a body, and how its answer lies."""

    def take(self, columns: str) -> str:
        """Values [.., T] of x at the columns [T] of every row."""

    def answer(self, rows: str) -> str:
        """Rows [.., M] as the layer answers."""


class Rows:
    """x [.., D], its own rows."""

    def __init__(self, body: Body) -> None:
        self.body = body

    def take(self, columns: str) -> str:
        return self.body("Gather", "x", columns, axis=-1)

    def answer(self, rows: str) -> str:
        return rows


class Patches:
    """x [B, C_in, H, W], the rows of its patches [B, OH, OW]; see WINDOW.

    A column (c, i, j) of the patch at (oh, ow) is pixel (oh s_h + i d_h, ow s_w + j d_w) of channel
    c of the padded map: a place in the flat map that is a sum of one number for the patch and one
    for the column.
    """

    def __init__(self, body: Body) -> None:
        self.body = b = body
        kernel, strides, pads, self.dilations = (b.attribute(name) for name in WINDOW)
        zeros = b.constant([0, 0])
        top_left, bottom_right = (
            b("Slice", pads, b.constant([start]), b.constant([start + 2])) for start in (0, 2)
        )
        padded = b("Pad", "x", b("Concat", zeros, top_left, zeros, bottom_right, axis=0))
        self.flat = b("Reshape", padded, b.constant([0, -1]))
        size = b.size(padded, 2)
        self.width, self.pixels = b.entry(size, 1), b("ReduceProd", size, keepdims=0)
        self.kernel_width = b.entry(kernel, 1)
        self.taps = b("ReduceProd", kernel, keepdims=0)
        reach = b("Mul", self.dilations, b("Sub", kernel, b.constant(1)))
        steps = b("Div", b("Sub", b("Sub", size, reach), b.constant(1)), strides)
        counts = b("Add", steps, b.constant(1))
        rows, columns = (self._starts(counts, strides, axis) for axis in (0, 1))
        down = b("Unsqueeze", b("Mul", rows, self.width), b.constant([1]))
        self.patches = b("Unsqueeze", b("Add", down, columns), b.constant([2]))

    def _starts(self, counts: str, strides: str, axis: int) -> str:
        """Where the windows begin along one axis, in pixels."""
        b = self.body
        numbers = b("Range", b.constant(0), b.entry(counts, axis), b.constant(1))
        return b("Mul", numbers, b.entry(strides, axis))

    def take(self, columns: str) -> str:
        b = self.body
        columns = b("Cast", columns, to=7)
        channel, tap = b("Div", columns, self.taps), b("Mod", columns, self.taps)
        i, j = b("Div", tap, self.kernel_width), b("Mod", tap, self.kernel_width)
        down = b("Mul", b("Mul", i, b.entry(self.dilations, 0)), self.width)
        right = b("Mul", j, b.entry(self.dilations, 1))
        offset = b("Add", b("Mul", channel, self.pixels), b("Add", down, right))
        return b("Gather", self.flat, b("Add", self.patches, offset), axis=1)

    def answer(self, rows: str) -> str:
        return self.body("Transpose", rows, perm=[0, 3, 1, 2])
