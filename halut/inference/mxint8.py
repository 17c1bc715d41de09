"""Inference layers with MXINT8 weights, decoded at use."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from halut.codecs.packing import unpack
from halut.inference.base import InferenceLayer, absent
from halut.layers.codec import CodecLayer, quantized_input
from halut.ops.integer.mxint8 import DTYPES, mxint8_dequantize
from halut.sites.find import exact_product


class Mxint8Layer(InferenceLayer):
    """What a trained layer answers, bit for bit, from 8.25 bits a weight; no gradients.

    codes int8 [M, taps, C] and scales uint8 [M, taps, ceil(C / 32)] of the weight, bias float [M].
    Every call decodes the weight in the input's dtype, multiplies, and forgets it.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None
    weight = property(absent)

    def __init__(self, layer: CodecLayer) -> None:
        super().__init__()
        assert layer.weight_codec is not None
        self.site = layer.site
        packed = layer.weight_codec.export(layer.canonical_weight())
        shape = layer.weight_codec.layout.shape
        codes = unpack(packed["codes"], 8, layer.weight_codec.layout.numel, True)
        self.register_buffer("codes", codes.to(torch.int8).view(shape))
        self.register_buffer("scales", packed["scales"])
        bias = layer.quantized_bias()
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.activation_codec = copy.deepcopy(layer.activation_codec)

    def decoded(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [M, D]."""
        supported = dtype if dtype in DTYPES else torch.float32
        values = mxint8_dequantize(self.codes, self.scales, supported)
        return values.to(dtype).transpose(1, 2).flatten(1)

    def forward(self, input: Tensor) -> Tensor:
        self.check(input)
        q = quantized_input(self.activation_codec, input, self.site)
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return exact_product(q, self.decoded(input.dtype), bias, self.site)
