"""Layers by look-up tables as nodes of the domain `halut`, while torch.onnx traces the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.encoders.base import Encoder
from halut.encoders.decision_tree import DecisionTreeEncoder
from halut.encoders.pq import PQEncoder
from halut.encoders.tree import TreeEncoder
from halut.export.onnx.encodings import (
    DecisionTreeCodes,
    Encoding,
    GivenCodes,
    NearestCodes,
    TreeCodes,
)
from halut.export.onnx.node import Nodes, function_node
from halut.export.onnx.sources import WINDOW
from halut.export.onnx.table_functions import TABLE, TableFunction
from halut.inference.table_layers import inference_table, refuse_average
from halut.layers.lut import LUTLayer
from halut.ops.blocks import Blocks
from halut.ops.geometry import ConvGeometry, pad


class TableNode(Nodes):
    """One node in the place of a layer: its inputs are the layer's tensors.

    Nothing is computed: the answer has a shape alone. `function` is what the node's name stands
    for. What a layer does before its encoder (its unit, a transform) is left to torch, as are the
    codes of encoders that are not halut's own.
    """

    def __init__(self, layer: LUTLayer) -> None:
        super().__init__()
        refuse_average(layer)
        self.site = layer.site
        encoder = layer.encoder
        self.unit, self.transform = float(encoder.unit), encoder.transform
        encoding, tensors = encoding_of(encoder)
        self.encoder = encoder if isinstance(encoding, GivenCodes) else None
        table = dict(zip(TABLE, inference_table(layer), strict=True))
        for name, tensor in {**tensors, **table}.items():
            self.register_buffer(name, tensor.detach().clone(memory_format=torch.contiguous_format))
        window = self.site.geometry is not None and self.encoder is None
        self.function = TableFunction(encoding, window, table["table"].dtype == torch.int8)
        self.functions = (self.function,)

    def forward(self, input: Tensor) -> Tensor:
        site, x = self.site, self._before(input)
        lead: Sequence[Any] = x.shape[:-1]
        if site.geometry is None:
            if self.encoder is None:
                return self._node(x, (*lead, site.M), {})
            return self._looked_up(x.reshape(-1, site.D)).view(*lead, site.M)
        geometry = site.geometry.on(x)
        size = geometry.output_size(x.shape[2], x.shape[3])
        if self.encoder is None:
            return self._node(x, (x.shape[0], site.M, *size), window_attributes(geometry))
        y = self._looked_up(im2col_rows(x, geometry)).view(x.shape[0], *size, site.M)
        return y.permute(0, 3, 1, 2)

    def _before(self, x: Tensor) -> Tensor:
        """x over the encoder's unit and by its transform."""
        x = x if self.unit == 1.0 else x / self.unit
        if self.transform is None:
            return x
        if self.site.geometry is not None or x.ndim == 2:
            return self.transform(x)
        return self.transform(x.reshape(-1, self.site.D)).view(x.shape)

    def _looked_up(self, rows: Tensor) -> Tensor:
        """[N, M] of rows [N, groups * D] by the codes that the encoder itself makes of them."""
        encoder: Any = self.encoder
        columns = encoder.input_dims
        codes = encoder.encode(rows if columns is None else rows[:, columns])
        return self._node(codes, (codes.shape[0], self.site.M), {})

    def _node(self, x: Tensor, shape: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        tensors = (getattr(self, name) for name in self.function.inputs)
        return function_node(self.function, (x, *tensors), shape, attributes)


def encoding_of(encoder: Encoder) -> tuple[Encoding, dict[str, Tensor]]:
    """How a function makes an encoder's codes of inputs in its unit, and the tensors it reads."""
    if type(encoder) is TreeEncoder:
        columns = encoder.split_dims.T.to(torch.int32)
        return TreeCodes(encoder.K), {"columns": columns, "thresholds": encoder.thresholds}
    if type(encoder) is DecisionTreeEncoder:
        columns = encoder.node_dims.to(torch.int32)
        return DecisionTreeCodes(encoder.K), {"columns": columns, "thresholds": encoder.thresholds}
    if type(encoder) is PQEncoder:
        return _nearest(encoder)
    return GivenCodes(), {}


def _nearest(encoder: PQEncoder) -> tuple[Encoding, dict[str, Tensor]]:
    """Narrower blocks read their first column again, in the place of zeros.

    That adds one term to all distances; for the largest distance prototypes repeat their entry too,
    and where there are roots they ignore it.
    """
    options, blocks = encoder.options, encoder.blocks
    columns = blocks.of_stage.columns()
    missing = columns < 0
    tensors = {"columns": torch.where(missing, columns[:, :1], columns).to(torch.int32)}
    prototypes = encoder.prototypes.detach().clone()
    if options.output_metric:
        roots = encoder.roots.detach().masked_fill(missing[:, :, None], 0.0)
        tensors |= {"prototypes": prototypes @ roots, "roots": roots}
    elif options.metric == "chebyshev":
        empty = _by_book(missing, blocks)[:, None]
        tensors["prototypes"] = torch.where(empty, prototypes[:, :, :1], prototypes)
    else:
        tensors["prototypes"] = prototypes
    rooted = options.output_metric and not options.residual
    return NearestCodes(options.metric, blocks.stages, rooted), tensors


def _by_book(each: Tensor, blocks: Blocks) -> Tensor:
    """What is told of the blocks [groups * C / stages, V], of all codebooks [groups * C, V]."""
    grouped = each.view(blocks.groups, 1, -1, each.shape[1])
    return grouped.expand(-1, blocks.stages, -1, -1).reshape(blocks.total, -1)


def im2col_rows(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Rows [B * OH * OW, C_in * taps] of a map, by operators that torch.onnx knows."""
    g = geometry
    unfolded = F.unfold(pad(x, g), g.kernel_size, g.dilation, stride=g.stride)
    return unfolded.transpose(1, 2).flatten(0, 1)


def window_attributes(geometry: ConvGeometry) -> dict[str, list[int]]:
    """Those of WINDOW."""
    left, right, top, bottom = geometry.padding
    pads = [top, left, bottom, right]
    kernel, strides = list(geometry.kernel_size), list(geometry.stride)
    return dict(zip(WINDOW, (kernel, strides, pads, list(geometry.dilation)), strict=True))
