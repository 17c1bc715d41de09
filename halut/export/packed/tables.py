"""Integer operations by look-up tables: codes of bytes, sums of entries."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.export.packed.operations import Packed, Parts, Requantized
from halut.ops import ConvGeometry, accumulate
from halut.ops.nearest.encode import nearest_encode
from halut.ops.tree.encode import tree_encode

EXACT = 1 << 24
"""Integers up to here are exact in float32."""


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


def map_and_window(
    tables: Tables, shape: tuple[int, ...]
) -> tuple[tuple[int, int, int], ConvGeometry]:
    """(channels, height, width) of what a layer reads, of a `shape` without the batch, and its
    window; rows are maps of one pixel."""
    if tables.geometry is None:
        return (shape[-1], 1, 1), ConvGeometry((1, 1))
    return (shape[0], shape[1], shape[2]), tables.geometry
