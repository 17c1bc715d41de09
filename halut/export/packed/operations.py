"""Integer operations from bytes to bytes, as packed files state them, in torch.

Maps are uint8 [B, channels, H, W], rows uint8 [..., D]; a value q stands for scale * (q - zero
point). `parts` answers everything that golden vectors show, `output` last.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.export.packed.requantization import Requantization
from halut.ops import ConvGeometry, accumulate
from halut.ops.epilogue import reshape_output, rows_of
from halut.ops.integer.max_pool import max_pool
from halut.ops.nearest.encode import nearest_encode
from halut.ops.tree.encode import tree_encode

Parts = dict[str, Tensor]
"""codes [N, G * C] uint8 and sums [N, M] int32, where there are any, and output."""
EXACT = 1 << 24
"""Integers up to here are exact in float32."""


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
class Tables(Requantized):
    """sums[n, g, m] = sum_c table[g, c, codes[n, g, c], m], int32.

    table int8 [G, C, K, M / G], its entries of `bits` bits. Codes are those of hash trees, with
    split_dims [G * C, depth] and byte thresholds [G * C, K - 1] (an input goes right if it is
    above), or of the nearest of the byte prototypes [G * C, K, V] by `metric`, the first of equals.
    Around a map lies the zero point.
    """

    kind = "tables"
    table: Tensor
    bits: int
    geometry: ConvGeometry | None = None

    @property
    def accumulator_bits(self) -> int:
        """The bits that every sum of entries fits, signed."""
        return (self.table.shape[1] << (self.bits - 1)).bit_length() + 1

    def codes(self, x: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """codes uint8 [N, G * C] of float32 rows, or of a padded map."""
        raise NotImplementedError

    def window(self) -> ConvGeometry | None:
        return self.geometry

    def sums(self, x: Tensor) -> Parts:
        values, g = x.float(), self.geometry
        if g is None:
            values = values.reshape(-1, values.shape[-1])
        else:
            values = F.pad(values, g.padding, value=self.zero_point)
            g = replace(g, padding=(0, 0, 0, 0))
        codes = self.codes(values, g)
        return {"codes": codes, "sums": accumulate(codes, self.table)}

    def fields(self) -> dict[str, Any]:
        G, C, K, M = self.table.shape
        shape = {"groups": G, "codebooks": C, "K": K, "outputs": G * M}
        shape["accumulator_bits"] = self.accumulator_bits
        return {**shape, **self.window_fields(), **super().fields()}

    def tensors(self) -> dict[str, Packed]:
        by_output = self.table.permute(0, 3, 1, 2).flatten(0, 1)  # [M, C, K]
        axes = ("output", "codebook", "k")
        return {"table": Packed(by_output, axes, self.bits, True), **super().tensors()}


@dataclass
class TreeTables(Tables):
    """Tables with the codes of hash trees."""

    split_dims: Tensor = field(kw_only=True)
    thresholds: Tensor = field(kw_only=True)
    columns: int = field(kw_only=True)

    def codes(self, x: Tensor, geometry: ConvGeometry | None) -> Tensor:
        return tree_encode(x, self.split_dims.flatten(), self.thresholds.float(), geometry)

    def fields(self) -> dict[str, Any]:
        return {"encoder": "tree", "columns": self.columns, **super().fields()}

    def tensors(self) -> dict[str, Packed]:
        bits = max((self.columns - 1).bit_length(), 1)
        return {
            "split_dims": Packed(self.split_dims, ("codebook", "level"), bits),
            "thresholds": Packed(self.thresholds, ("codebook", "node"), 8),
            **super().tensors(),
        }


@dataclass
class NearestTables(Tables):
    """Tables with the codes of nearest prototypes, in blocks of `starts` and `widths`."""

    prototypes: Tensor = field(kw_only=True)
    metric: str = field(kw_only=True)
    starts: list[int] = field(kw_only=True)
    widths: list[int] = field(kw_only=True)

    def codes(self, x: Tensor, geometry: ConvGeometry | None) -> Tensor:
        exact = 2 * self.prototypes.shape[2] * 255**2 < EXACT
        dtype = torch.float32 if exact else torch.float64
        prototypes = self.prototypes.to(dtype)
        return nearest_encode(x.to(dtype), prototypes, self.metric, len(self.table), geometry)

    def fields(self) -> dict[str, Any]:
        blocks = {"starts": self.starts, "widths": self.widths}
        return {"encoder": "nearest", "metric": self.metric, **blocks, **super().fields()}

    def tensors(self) -> dict[str, Packed]:
        books = zip(self.prototypes, self.widths, strict=True)
        entries = torch.cat([book[:, :width].flatten() for book, width in books])
        return {"prototypes": Packed(entries, ("codebook, k, column",), 8), **super().tensors()}


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


def map_and_window(
    tables: Tables, shape: tuple[int, ...]
) -> tuple[tuple[int, int, int], ConvGeometry]:
    """(channels, height, width) of what a layer reads, of a `shape` without the batch, and its
    window; rows are maps of one pixel."""
    if tables.geometry is None:
        return (shape[-1], 1, 1), ConvGeometry((1, 1))
    return (shape[0], shape[1], shape[2]), tables.geometry
