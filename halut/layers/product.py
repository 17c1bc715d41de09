"""The table product of a layer: quantised as its options say, with its estimator's gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from halut.layers.source import Source, source_of
from halut.ops import accumulate, quantise
from halut.ops.table_quantization import average_groups

if TYPE_CHECKING:
    from halut.layers.base import LUTLayer


def table_product(layer: LUTLayer, x: Tensor) -> Tensor:
    """Table product of the layer's input with bias: rows [N, M], or the layer's output."""
    lut, options, source = layer.full_lut(), layer.options, source_of(layer, x)
    exact_sums = options.bits is not None and options.scale != "codebook" and not options.average
    if not exact_sums or layer.estimator == "identity":
        return _by_parts(layer, source, lut)
    table = quantise(lut, options.bits or 0, options.scale, layer.clip)
    return source.answer(lut, table, layer.bias)


def _by_parts(layer: LUTLayer, source: Source, lut: Tensor) -> Tensor:
    """The same value, bit for bit where both apply, in steps."""
    table, bias = layer.table(lut), 0.0 if layer.bias is None else layer.bias
    if table is None:
        return _sums(layer, source, lut, lut.detach()) + bias
    if not table.integer_sums:
        return _sums(layer, source, lut, table.dequantise()) + bias
    y = _sums(layer, source, (lut - table.offset) / table.scale, table.q)
    if layer.options.average is not None:
        y = y + (average_groups(source.codes(), table.q, layer.options.average) - y).detach()
    return y * table.output_scale() + (table.folded_bias() + bias)


def _sums(layer: LUTLayer, source: Source, lut: Tensor, table: Tensor) -> Tensor:
    if layer.estimator == "identity":
        straight_through = lut + (table - lut).detach()
        return accumulate(source.codes(), straight_through)
    return source.product(lut, table)
