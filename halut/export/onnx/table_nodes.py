"""Layers by look-up tables as nodes of the domain `halut`, while torch.onnx traces the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from onnx import FunctionProto
from torch import Tensor, nn

from halut.errors import HalutError
from halut.export.onnx.body import DOMAIN, VERSION
from halut.export.onnx.sources import WINDOW
from halut.export.onnx.table_functions import INPUTS, TABLE, tree_function
from halut.inference.table_layers import packed
from halut.layers.lut import LUTLayer
from halut.ops import ConvGeometry


class TableNode(nn.Module):
    """One node in the place of a layer: its inputs are the layer's tensors.

    Nothing is computed: the answer has a shape alone. `function` is what the node's name stands
    for. Transforms of the input are left to torch.
    """

    columns: Tensor
    thresholds: Tensor
    table: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, layer: LUTLayer) -> None:
        super().__init__()
        self.site = layer.site
        form = packed(layer)
        self.transform = form.transform
        self.kind, self.K = self._take(form), form.table.shape[2]
        for name in TABLE:
            self.register_buffer(name, getattr(form, name))
        self.integer = self.table.dtype == torch.int8

    def _take(self, form: Any) -> str:
        """Keep the encoder's tensors; what kind of node that is."""
        if form.form != "tree":
            raise HalutError(f"{self.site.name}: no ONNX form")
        taps = form.taps.view(len(form.thresholds), -1).T
        self.register_buffer("columns", taps.to(torch.int32).contiguous())
        self.register_buffer("thresholds", form.thresholds)
        return "Tree"

    @property
    def name(self) -> str:
        """Of the function: what its body depends on."""
        where = "Linear" if self.site.geometry is None else "Conv"
        return f"{self.kind}{where}_K{self.K}{'' if self.integer else '_float'}"

    def function(self, opset: int) -> FunctionProto:
        """The body of the node."""
        window = self.site.geometry is not None
        return tree_function(self.name, self.K, self.integer, window, opset)

    def forward(self, input: Tensor) -> Tensor:
        x = input if self.transform is None else self._transformed(input)
        geometry = self.site.geometry
        if geometry is None:
            shape: Sequence[Any] = (*x.shape[:-1], self.site.M)
            return self._node(x, shape, {})
        geometry = geometry.on(x)
        shape = (x.shape[0], self.site.M, *geometry.output_size(x.shape[2], x.shape[3]))
        return self._node(x, shape, window_attributes(geometry))

    def _transformed(self, x: Tensor) -> Tensor:
        assert self.transform is not None
        if x.ndim == 4 and self.site.geometry is not None:
            return self.transform(x)
        return self.transform(x.reshape(-1, self.site.D)).view(x.shape)

    def _node(self, x: Tensor, shape: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        tensors = [getattr(self, name) for name in (*INPUTS[self.kind], *TABLE)]
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.name}",
            (x, *tensors),
            attributes,
            dtype=torch.float32,
            shape=shape,
            version=VERSION,
        )


def window_attributes(geometry: ConvGeometry) -> dict[str, list[int]]:
    """Those of WINDOW."""
    left, right, top, bottom = geometry.padding
    pads = [top, left, bottom, right]
    g = geometry
    values = (list(g.kernel_size), list(g.stride), pads, list(g.dilation))
    return dict(zip(WINDOW, values, strict=True))
