"""Functions of layers by look-up tables, as standard operators.

    y = scale * sum_c table[g, c, code_c(x), m] + bias

A sum of looked-up entries is the product of the codes as one-hot rows [C K] and the table [C K, M]:
onnxruntime takes that by MatMulInteger in half the time that Gather, Cast and ReduceSum need, and
without N C M entries in memory; int8 entries stay int8, and their sums are exact.

Inputs are finite: NaN, which halut's layers hand on, gets a code here as any number does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import FunctionProto, TensorProto

from halut.export.onnx.body import DOMAIN, Body
from halut.export.onnx.encodings import Encoding
from halut.export.onnx.sources import WINDOW, Patches, Rows

TABLE = ("table", "scale", "bias")
"""The last inputs of every function: [G, C, K, M] int8 or float, [G M], [G M]."""


@dataclass(frozen=True)
class TableFunction:
    """What a function's body depends on, and so its name; shapes are those of its inputs.

    window: x is a map, and the node has the attributes WINDOW; integer: the table is int8.
    """

    encoding: Encoding
    window: bool
    integer: bool
    domain: ClassVar[str] = DOMAIN

    @property
    def name(self) -> str:
        """TreeConv_K16, NearestLinear_l2_float, ..."""
        where = "Conv" if self.window else "Linear"
        number = "" if self.integer else "_float"
        return f"{self.encoding.kind}{where}{self.encoding.variant}{number}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs after x."""
        return (*self.encoding.inputs, *TABLE)

    def proto(self, opset: int) -> FunctionProto:
        """The function for a model of that opset."""
        body = Body(self.name, ("x", *self.inputs), opset, WINDOW if self.window else ())
        source = Patches(body) if self.window else Rows(body)
        codes = self.encoding.codes(body, source)
        return body.function(source.answer(self._product(body, codes)))

    def _product(self, b: Body, codes: str) -> str:
        """[.., G M] of codes [.., GC] int32."""
        groups, K, outputs = b.size("table", 0, 1), b.size("table", 2, 3), b.size("table", 3)
        every = b("Range", b.constant(0), b("Squeeze", K), b.constant(1))
        one_hot = b(
            "Equal",
            b("Unsqueeze", codes, b.constant([-1])),
            b("Cast", every, to=TensorProto.INT32),
        )
        typed = b("Cast", one_hot, to=TensorProto.UINT8 if self.integer else TensorProto.FLOAT)
        entries = b("Mul", b.size("table", 1, 2), K)
        rows = b("Reshape", typed, b("Concat", b.constant([-1]), groups, entries, axis=0))
        table = b("Reshape", "table", b("Concat", groups, entries, outputs, axis=0))
        by_group = b("Transpose", rows, perm=[1, 0, 2])
        if self.integer:
            sums = b("Cast", b("MatMulInteger", by_group, table), to=TensorProto.FLOAT)
        else:
            sums = b("MatMul", by_group, table)
        by_row = b("Transpose", sums, perm=[1, 0, 2])
        shape = b("Concat", b.size(codes, 0, -1), b.constant([-1]), axis=0)
        return b("Add", b("Mul", b("Reshape", by_row, shape), "scale"), "bias")
