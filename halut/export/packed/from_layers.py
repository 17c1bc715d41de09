"""Integer operations made of prepared layers by tables, exact layers and pools."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.export.packed.operations import MeanPool, Product
from halut.export.packed.requantization import Requantization
from halut.export.packed.tables import NearestTables, Tables, TreeTables
from halut.inference.onednn import Grid, quantized_weight
from halut.inference.table_layers import PackedLayer
from halut.ops import ConvGeometry
from halut.ops.blocks import Blocks
from halut.ops.table_quantization import quantize_table
from halut.sites.find import site_of

NARROW = 7
"""The largest entry of a table of 4 bits."""


@dataclass(frozen=True)
class Answer:
    """The bytes that an operation answers: their grid, whether negative ones become zero, and the
    grid of the residual branch that joins them, if one does."""

    grid: Grid
    relu: bool = False
    residual: Grid | None = None

    def requantization(self, scale: Tensor, bias: Tensor) -> Requantization:
        """The way of sums whose numbers are scale * sums + bias, both [M], to the bytes."""
        step, zero_point = self.grid.scale, self.grid.zero_point
        residual = None
        if self.residual is not None:
            residual = self.residual.scale / step, self.residual.zero_point
        low = zero_point if self.relu else 0
        offset = bias.double() / step + zero_point
        return Requantization.of(scale.double() / step, offset, low, residual)


def tables_of(
    layer: PackedLayer, grid: Grid, answer: Answer, window: ConvGeometry | None
) -> Tables:
    """The integer form of a layer by tables that reads bytes on `grid`.

    `window`: the layer's, with its padding in pixels. Raises HalutError, naming the layer, where
    its codes are not made of its inputs by trees or nearest prototypes alone.
    """
    if layer.transform is not None:
        raise HalutError(
            f"{layer.site.name} has no integer form: halut.transform computes of its inputs before "
            "they are coded; train with transform=none (of trees, permute does as well)"
        )
    table, scale, bias = integer_table(layer)
    answers, entries = answer.requantization, int(table.abs().max())
    bits = 4 if entries <= NARROW else 8
    if layer.form == "nearest":
        site = layer.site
        blocks = Blocks(site.D, table.shape[1], site.groups)
        return NearestTables(
            grid.zero_point,
            answers(scale, bias),
            table,
            bits,
            window,
            prototypes=byte_prototypes(layer, grid, blocks),
            metric=layer.metric,
            starts=blocks.starts,
            widths=blocks.widths,
        )
    if layer.form != "tree":
        raise HalutError(
            f"{layer.site.name} has no integer form: its encoder makes codes by steps of its own; "
            "train with halut=tree, or with halut=pq without residual and output_metric"
        )
    thresholds, leaves = byte_thresholds(layer.thresholds / grid.scale + grid.zero_point)
    by_codebook = leaves.view(*table.shape[:3], 1).expand(table.shape)
    depth = thresholds.shape[1].bit_length()
    return TreeTables(
        grid.zero_point,
        answers(scale, bias),
        table.gather(2, by_codebook).contiguous(),
        bits,
        window,
        split_dims=layer.taps.view(-1, depth),
        thresholds=thresholds,
        columns=layer.site.D * layer.site.groups,
    )


def integer_table(layer: PackedLayer) -> tuple[Tensor, Tensor, Tensor]:
    """(table int8 [G, C, K, M], scale [G * M], bias [G * M]) of a layer by tables.

    Float tables, and those with a scale per codebook, get 8 bits and a scale per output.
    """
    if layer.table.dtype == torch.int8:
        return layer.table, layer.scale, layer.bias
    quantized = quantize_table(layer.table, 8)
    scale, offset = quantized.output_scale(), quantized.folded_bias()
    return quantized.q.to(torch.int8), scale * layer.scale, offset * layer.scale + layer.bias


def byte_thresholds(thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """(thresholds uint8 [GC, K - 1], leaves int64 [GC, K]) of thresholds in steps of the input.

    A byte is above t where it is above floor(t), and never above 255. All bytes are above a t < 0:
    such a node gets 255, and below its left what was below its right, so that the leaf k of the
    new tree has the entries of the old one's `leaves`[c, k].
    """
    t = thresholds.detach().floor().clamp(-1, 255).to(torch.int16)
    GC, K = t.shape[0], t.shape[1] + 1
    leaves = torch.arange(K).repeat(GC, 1)
    for node in range(K - 1):
        always = t[:, node] < 0
        if not bool(always.any()):
            continue
        level = (node + 1).bit_length() - 1
        prefix = node + 1 - 2**level
        for below in range(level + 1, K.bit_length() - 1):
            half = 2 ** (below - level - 1)  # nodes of this level below either side
            left = 2**below - 1 + 2 * prefix * half
            moved = t[:, left + half : left + 2 * half].clone()
            t[always, left : left + half] = moved[always]
        half = K >> (level + 1)
        left = 2 * prefix * half
        moved = leaves[:, left + half : left + 2 * half].clone()
        leaves[always, left : left + half] = moved[always]
        t[always, node] = 255
    return t.to(torch.uint8), leaves


def byte_prototypes(layer: PackedLayer, grid: Grid, blocks: Blocks) -> Tensor:
    """Prototypes uint8 [GC, K, V] on the grid of the inputs, 0 where a block is narrower than V."""
    numbers = layer.prototypes.double() * layer.divisor
    q = torch.round(numbers / grid.scale + grid.zero_point).clamp(0, 255).to(torch.uint8)
    inside = torch.arange(blocks.V)[None] < torch.tensor(blocks.widths)[:, None]
    return q * inside[:, None]


def product_of(
    layer: nn.Conv2d | nn.Linear, grid: Grid, answer: Answer, window: ConvGeometry | None
) -> Product:
    """The integer form of an exact layer: a weight of 8 bits with a scale per output."""
    weight, scales = quantized_weight(layer.weight.detach())
    bias = torch.zeros_like(scales) if layer.bias is None else layer.bias.detach()
    requantization = answer.requantization(scales.double() * grid.scale, bias)
    groups = site_of("", layer, 1).groups
    return Product(grid.zero_point, requantization, weight.flatten(1), groups, window)


def mean_of(pool: nn.Module, grid: Grid, answer: Answer, pixels: int) -> MeanPool:
    """The integer form of the mean over maps of so many pixels."""
    scale, bias = torch.tensor([grid.scale / pixels]), torch.zeros(1)
    flatten = pool(torch.zeros(1, 1, 1, 1)).ndim == 2
    return MeanPool(grid.zero_point, answer.requantization(scale, bias), flatten)
