"""Operators of QONNX, with bodies of standard operators, so that runtimes without them run them.

As the package qonnx defines them (github.com/fastmachinelearning/qonnx), of the attributes that are
written here: signed integers without a narrow range, thresholds that all channels share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import FunctionProto, TensorProto

from halut.export.onnx.body import Body

QONNX = "qonnx.custom_op.general"


@dataclass(frozen=True)
class QonnxFunction:
    """An operator of QONNX's: its inputs after x, its attributes, and its body."""

    name: str
    inputs: tuple[str, ...]
    attributes: tuple[str, ...]
    body: Callable[[Body], str]
    domain: str = QONNX

    def proto(self, opset: int) -> FunctionProto:
        """The function for a model of that opset."""
        b = Body(self.name, ("x", *self.inputs), opset, self.attributes, self.domain)
        return b.function(self.body(b))


def _int_quant(b: Body) -> str:
    """scale * (clamp(round(x / scale + zero_point)) - zero_point), of bit_width signed bits."""
    one = b.constant(1.0, np.float32)
    half = b("Pow", b.constant(2.0, np.float32), b("Sub", "bit_width", one))
    codes = b("Round", b("Add", b("Div", "x", "scale"), "zero_point"))
    clamped = b("Max", b("Min", codes, b("Sub", half, one)), b("Neg", half))
    return b("Mul", b("Sub", clamped, "zero_point"), "scale")


def _bipolar_quant(b: Body) -> str:
    """scale where x >= 0, else -scale."""
    one, zero = b.constant(1.0, np.float32), b.constant(0.0, np.float32)
    sign = b("Where", b("GreaterOrEqual", "x", zero), one, b("Neg", one))
    return b("Mul", sign, "scale")


def _multi_threshold(b: Body) -> str:
    """The number of thresholds [1, T] that x reaches."""
    last = b.constant([-1])
    reached = b(
        "GreaterOrEqual", b("Unsqueeze", "x", last), b("Squeeze", "thresholds", b.constant([0]))
    )
    return b("ReduceSum", b("Cast", reached, to=TensorProto.FLOAT), last, keepdims=0)


INT_QUANT = QonnxFunction(
    "IntQuant",
    ("scale", "zero_point", "bit_width"),
    ("signed", "narrow", "rounding_mode"),
    _int_quant,
)
BIPOLAR_QUANT = QonnxFunction("BipolarQuant", ("scale",), (), _bipolar_quant)
MULTI_THRESHOLD = QonnxFunction("MultiThreshold", ("thresholds",), ("out_dtype",), _multi_threshold)
