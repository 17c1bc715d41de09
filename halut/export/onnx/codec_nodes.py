"""Layers by codecs: quantized activations, quantized weights, and the exact product of both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from halut.codecs.integer import IntegerCodec
from halut.export.onnx.node import Nodes, standard_node
from halut.export.onnx.qonnx_functions import INT_QUANT
from halut.export.onnx.quantizers import int_quant, powers_of, quantizer_of
from halut.layers.codec import CodecLayer
from halut.sites.find import exact_product


class CodecNodes(Nodes):
    """y = Qx(x) Qw(W)' + Qb(b), weights being what quantization made of them.

    Integer weights are codes and scales, of other codecs floats.
    """

    bias: Tensor | None

    def __init__(self, layer: CodecLayer, style: str) -> None:
        super().__init__()
        self.site, self.bias_last = layer.site, layer.adds_bias_last
        self.activation = quantizer_of(layer.activation_codec, layer.site, style)
        self.weight: nn.Module = weight_of(layer, style)
        bias = layer.quantized_bias()
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        own = self.weight.functions if isinstance(self.weight, Nodes) else ()
        self.functions = (*self.activation.functions, *own)

    def forward(self, input: Tensor) -> Tensor:
        x, bias = self.activation(input), self.bias
        if bias is None or not self.bias_last:
            return exact_product(x, self.weight(), bias, self.site)
        y = exact_product(x, self.weight(), None, self.site)
        return y + (bias if self.site.geometry is None else bias[:, None, None])


class FloatWeight(Nodes):
    """Quantized values, as floats."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def forward(self) -> Tensor:
        return self.values


class IntegerWeight(Nodes):
    """Codes int8 and a scale for every output; in QONNX's style floats, quantized by its node."""

    def __init__(self, values: Tensor, scale: Tensor, bits: int, style: str) -> None:
        super().__init__()
        self.bits, self.style = bits, style
        self.register_buffer("scale", scale)
        codes = values / scale.view(-1, *[1] * (values.ndim - 1))
        self.register_buffer("values", values if style == "qonnx" else codes.to(torch.int8))
        self.functions = (INT_QUANT,) if style == "qonnx" else ()

    def forward(self) -> Tensor:
        values, scale = self.get_buffer("values"), self.get_buffer("scale")
        if self.style == "qonnx":
            return int_quant(values, scale.view(-1, *[1] * (values.ndim - 1)), self.bits)
        return standard_node("DequantizeLinear", (values, scale), torch.float32, {"axis": 0})


def weight_of(layer: CodecLayer, style: str) -> Nodes:
    """The weight in the exact layer's shape."""
    site, codec = layer.site, layer.weight_codec
    values = layer.quantized_weight().detach().clone()
    if site.geometry is not None:
        values = values.view(site.M, -1, *site.geometry.kernel_size)
    if type(codec) is not IntegerCodec or codec.width > 8 or codec.per == "block":
        return FloatWeight(values)
    scale = powers_of(codec.scales(layer.canonical_weight().float())).flatten()
    return IntegerWeight(values, scale.expand(site.M).clone(), codec.width, style)
