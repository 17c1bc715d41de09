"""Integer operations from bytes to bytes, as packed files state them, in torch.

Maps are uint8 [B, channels, H, W], rows uint8 [..., D]; a value q stands for scale * (q - zero
point). `parts` answers everything that golden vectors show, `output` last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.export.packed.requantization import Requantization
from halut.ops import ConvGeometry
from halut.ops.epilogue import reshape_output, rows_of
from halut.ops.integer.max_pool import max_pool

Parts = dict[str, Tensor]
"""codes [N, G * C] uint8 and sums [N, M] int32, where there are any, and output."""


@dataclass(frozen=True)
class Packed:
    """A tensor, the width of its entries in the packed file, and what its axes are."""

    values: Tensor
    axes: tuple[str, ...]
    bits: int
    signed: bool = False


@dataclass
class Operation:
    """What a step of an integer network computes. `zero_point`: that of its input."""

    kind = ""
    zero_point: int

    def parts(self, x: Tensor, residual: Tensor | None = None) -> Parts:
        """The answer to x, uint8, to which `residual`, of the answer's shape, may be added."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """Its numbers in the manifest."""
        return {}

    def tensors(self) -> dict[str, Packed]:
        """Its tensors, in the order of the packed file."""
        return {}


@dataclass
class Requantized(Operation):
    """An operation whose answer is requantized from sums."""

    requantization: Requantization

    def sums(self, x: Tensor) -> Parts:
        """codes, if there are any, and sums [N, M]."""
        raise NotImplementedError

    def window(self) -> ConvGeometry | None:
        """The convolution's window; None for rows."""
        return None

    def window_fields(self) -> dict[str, Any]:
        """The window in the manifest; null for rows."""
        geometry = self.window()
        return {"window": geometry and window_fields(geometry, self.zero_point)}

    def parts(self, x: Tensor, residual: Tensor | None = None) -> Parts:
        parts, geometry = self.sums(x), self.window()
        if geometry is None and residual is not None:
            residual = residual.reshape(parts["sums"].shape)
        rows = self.requantization(parts["sums"], rows_of(residual))
        if geometry is None:
            return {**parts, "output": rows.view(*x.shape[:-1], -1)}
        return {**parts, "output": reshape_output(rows, x.contiguous(), geometry)}

    def fields(self) -> dict[str, Any]:
        r = self.requantization
        return {"shift": r.shift, "low": r.low, "residual_multiplier": r.residual}

    def tensors(self) -> dict[str, Packed]:
        r = self.requantization
        return {
            "multiplier": Packed(r.multiplier, ("output",), 16, True),
            "bias": Packed(r.bias, ("output",), 32, True),
        }


@dataclass
class Product(Requantized):
    """sums[n, m] = sum_d weight[m, d] (x[n, d] - zero_point), int32; weight int8 [M, D]."""

    kind = "product"
    weight: Tensor
    groups: int = 1
    geometry: ConvGeometry | None = None

    def window(self) -> ConvGeometry | None:
        return self.geometry

    def sums(self, x: Tensor) -> Parts:
        centered = x.double() - self.zero_point  # exact, unlike float32, and torch has no integers
        weight = self.weight.double()
        if self.geometry is None:
            sums = F.linear(centered.reshape(-1, centered.shape[-1]), weight)
        else:
            g = self.geometry
            kernel = weight.view(len(weight), -1, *g.kernel_size)
            padded = F.pad(centered, g.padding)
            sums = F.conv2d(padded, kernel, None, g.stride, 0, g.dilation, self.groups)
            sums = sums.permute(0, 2, 3, 1).flatten(0, 2)
        return {"sums": sums.to(torch.int32)}

    def fields(self) -> dict[str, Any]:
        return {"groups": self.groups, **self.window_fields(), **super().fields()}

    def tensors(self) -> dict[str, Packed]:
        return {"weight": Packed(self.weight, ("output", "column"), 8, True), **super().tensors()}


@dataclass
class MeanPool(Requantized):
    """sums[n, m] = the sum of x - zero_point over the map of channel m; `flatten`: rows [B, M]."""

    kind = "mean_pool"
    flatten: bool

    def parts(self, x: Tensor, residual: Tensor | None = None) -> Parts:
        sums = (x.to(torch.int32) - self.zero_point).sum((2, 3), dtype=torch.int32)
        rows = self.requantization(sums, rows_of(residual))
        return {"sums": sums, "output": rows if self.flatten else rows[:, :, None, None]}


@dataclass
class Add(Requantized):
    """sums = x - zero_point, to which the residual is added; one multiplier and bias for all."""

    kind = "add"

    def parts(self, x: Tensor, residual: Tensor | None = None) -> Parts:
        flat = None if residual is None else residual.reshape(-1, 1)
        rows = self.requantization(x.reshape(-1, 1).to(torch.int32) - self.zero_point, flat)
        return {"output": rows.view(x.shape)}


@dataclass
class MaxPool(Operation):
    """The largest byte of every window; around a map lies 0."""

    kind = "max_pool"
    geometry: ConvGeometry

    def parts(self, x: Tensor, residual: Tensor | None = None) -> Parts:
        return {"output": max_pool(x.contiguous(), self.geometry)}

    def fields(self) -> dict[str, Any]:
        return {"window": window_fields(self.geometry, padding_code=0)}


@dataclass
class Relu(Operation):
    """max(x, zero_point)."""

    kind = "relu"

    def parts(self, x: Tensor, residual: Tensor | None = None) -> Parts:
        return {"output": x.clamp(min=self.zero_point)}


@dataclass
class Flatten(Operation):
    """The bytes of a sample in one row, in the order channels, rows, columns."""

    kind = "flatten"

    def parts(self, x: Tensor, residual: Tensor | None = None) -> Parts:
        return {"output": x.flatten(1)}


def window_fields(geometry: ConvGeometry, padding_code: int) -> dict[str, Any]:
    """A window in the manifest."""
    names = ("kernel_size", "stride", "padding", "dilation")
    numbers = {name: list(getattr(geometry, name)) for name in names}
    return {**numbers, "padding_code": padding_code}
