"""Codecs of activations as nodes: QuantizeLinear pairs, steps, or nodes of QONNX by choice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from onnx import FunctionProto, TensorProto
from torch import Tensor

from halut.codecs import Codec
from halut.codecs.base import Coded
from halut.codecs.binary import BinaryCodec
from halut.codecs.integer import IntegerCodec
from halut.codecs.powers import times_power
from halut.export.onnx.body import DOMAIN, Body
from halut.export.onnx.node import Nodes, function_node, standard_node
from halut.export.onnx.qonnx_functions import BIPOLAR_QUANT, INT_QUANT, MULTI_THRESHOLD
from halut.layers.codec import quantized_input
from halut.sites.find import Site

STYLES = ("qdq", "qonnx")
"""Standard operators alone, or nodes of QONNX's domain where it has one."""


@dataclass(frozen=True)
class StepsFunction:
    """levels[number of t with x >= thresholds[t]]: thresholds [T], levels [T + 1]."""

    domain = DOMAIN
    name = "Steps"
    inputs = ("thresholds", "levels")

    def proto(self, opset: int) -> FunctionProto:
        b = Body(self.name, ("x", *self.inputs), opset)
        last = b.constant([-1])
        above = b("GreaterOrEqual", b("Unsqueeze", "x", last), "thresholds")
        count = b("ReduceSum", b("Cast", above, to=TensorProto.INT32), last, keepdims=0)
        return b.function(b("Gather", "levels", count))


STEPS = StepsFunction()


class Integers(Nodes):
    """round(x / s) clamped to `bits` signed bits, times s: per tensor, or per channel."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, codec: IntegerCodec, site: Site, style: str) -> None:
        super().__init__()
        self.site, self.style, self.bits = site, style, codec.width
        scale = powers_of(codec.scales(torch.zeros(codec.layout.shape))).flatten()
        self.register_buffer("scale", scale if len(scale) > 1 else scale.reshape(()))
        self.register_buffer("zero_point", torch.zeros_like(self.scale, dtype=torch.int8))
        self.functions = (INT_QUANT,) if style == "qonnx" else ()

    def forward(self, x: Tensor) -> Tensor:
        axis = -1 if self.site.geometry is None else 1
        broadcast = self.scale
        if self.scale.ndim and axis == 1:
            broadcast = self.scale.view(-1, 1, 1)
        if self.style == "qonnx":
            return int_quant(x, broadcast, self.bits)
        if self.bits < 8:
            half = 2.0 ** (self.bits - 1)
            low, high = -half * broadcast, (half - 1) * broadcast
            x = torch.minimum(torch.maximum(x, low), high)
        attributes = {"axis": axis} if self.scale.ndim else {}
        tensors = (self.scale, self.zero_point)
        q = standard_node("QuantizeLinear", (x, *tensors), torch.int8, attributes)
        return standard_node("DequantizeLinear", (q, *tensors), torch.float32, attributes)


class Stepped(Nodes):
    """A codec of few levels: which of them by the number of thresholds that x reaches."""

    thresholds: Tensor
    levels: Tensor

    def __init__(self, thresholds: Tensor, levels: Tensor, style: str) -> None:
        super().__init__()
        self.register_buffer("thresholds", thresholds)
        self.register_buffer("levels", levels)
        self.style = style
        self.functions = (MULTI_THRESHOLD,) if style == "qonnx" else (STEPS,)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "qdq":
            return function_node(STEPS, (x, self.thresholds, self.levels), x.shape)
        attributes = {"out_dtype": "UINT8"}
        count = function_node(MULTI_THRESHOLD, (x, self.thresholds[None]), x.shape, attributes)
        return self.levels[count.to(torch.int64)]


class Bipolar(Nodes):
    """-1 or 1, QONNX's BipolarQuant."""

    scale: Tensor
    functions = (BIPOLAR_QUANT,)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return function_node(BIPOLAR_QUANT, (x, self.scale), x.shape)


class Traced(Nodes):
    """A codec as torch.onnx traces it."""

    def __init__(self, codec: Codec | None, site: Site) -> None:
        super().__init__()
        self.codec, self.site = codec, site

    def forward(self, x: Tensor) -> Tensor:
        return quantized_input(self.codec, x, self.site)


def quantizer_of(codec: Codec | None, site: Site, style: str) -> Nodes:
    """The form of an activation's codec."""
    if type(codec) is IntegerCodec and codec.width <= 8 and codec.per != "block":
        return Integers(codec, site, style)
    if type(codec) is BinaryCodec and not codec.has_scale and style == "qonnx":
        return Bipolar()
    steps = None if codec is None else codec.steps()
    if codec is None or steps is None:
        return Traced(codec, site)
    scales = codec.scales(torch.zeros(codec.layout.shape))
    one_for_all = scales is None or scales.numel() == 1 or scales.shape[0] == 1 == scales.ndim - 1
    if not one_for_all:
        return Traced(codec, site)
    levels = codec.decode(Coded(steps.table.to(torch.int32), scales)).flatten()
    return Stepped(steps.thresholds.flatten(), levels, style)


def int_quant(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """A node IntQuant of signed integers."""
    zero, width = torch.zeros((), device=x.device), torch.full((), float(bits), device=x.device)
    attributes = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
    return function_node(INT_QUANT, (x, scale, zero, width), x.shape, attributes)


def powers_of(exponent: Tensor | None) -> Tensor:
    """2^exponent float32."""
    assert exponent is not None
    return times_power(torch.ones(exponent.shape), exponent.to(torch.int32))
