"""Functions of layers by look-up tables, as standard operators.

    y = scale * sum_c table[g, c, code_c(x), m] + bias

A sum of looked-up entries is the product of the codes as one-hot rows [C K] and the table [C K, M]:
onnxruntime takes that by MatMulInteger in half the time that Gather, Cast and ReduceSum need, and
without N C M entries in memory; int8 entries stay int8, and their sums are exact.

Inputs are finite: NaN, which halut's layers hand on, gets a code here as any number does.
"""

from __future__ import annotations

import numpy as np
from onnx import FunctionProto, TensorProto

from halut.encoders.tree import tree_depth
from halut.export.onnx.body import Body
from halut.export.onnx.sources import WINDOW, Patches, Rows, Source

TABLE = ("table", "scale", "bias")
"""Inputs of every function: [G, C, K, M] int8 or float, [G M], [G M]."""
INPUTS = {"Tree": ("columns", "thresholds")}
"""The inputs between x and TABLE, by the first word of a function's name."""


def tree_function(name: str, K: int, integer: bool, window: bool, opset: int) -> FunctionProto:
    """A layer by hash trees: columns [depth, GC] tested by each level, thresholds [GC, K - 1]."""
    b, source = _begin(name, "Tree", window, opset)
    depth = tree_depth("tree", K)
    code = ""
    for level in range(depth):
        x = source.take(b("Gather", "columns", b.constant(level), axis=0))
        test = b("Cast", b("Greater", x, _thresholds(b, level, code)), to=TensorProto.INT32)
        code = test if not level else b("Add", b("Add", code, code), test)
    return b.function(source.answer(_product(b, _one_hot(b, code, K), integer)))


def _begin(name: str, kind: str, window: bool, opset: int) -> tuple[Body, Source]:
    inputs = ("x", *INPUTS[kind], *TABLE)
    body = Body(name, inputs, opset, WINDOW if window else ())
    return body, Patches(body) if window else Rows(body)


def _thresholds(b: Body, level: int, code: str) -> str:
    """What a level compares with: of the nodes of the path that `code` tells, [.., GC]."""
    first, count = 2**level - 1, 2**level
    nodes = b("Slice", "thresholds", *(b.constant([v]) for v in (first, first + count, 1)))
    flat = b("Reshape", nodes, b.constant([-1]))
    if not level:
        return flat
    total = b("Squeeze", b.size("thresholds", 0, 1))
    roots = b("Mul", b("Range", *(b.constant(0), total, b.constant(1))), b.constant(count))
    return b("Gather", flat, b("Add", code, b("Cast", roots, to=TensorProto.INT32)))


def _one_hot(b: Body, code: str, K: int) -> str:
    """Codes [.., GC] int32 as bool [.., GC, K]."""
    every = b.constant(np.arange(K), np.int32)
    return b("Equal", b("Unsqueeze", code, b.constant([-1])), every)


def _product(b: Body, one_hot: str, integer: bool) -> str:
    """scale * sum_c table[g, c, code_c, m] + bias, [.., G M], of codes as bool [.., G C, K]."""
    groups, outputs = b.size("table", 0, 1), b.size("table", 3)
    entries = b("Mul", b.size("table", 1, 2), b.size("table", 2, 3))
    typed = b("Cast", one_hot, to=TensorProto.UINT8 if integer else TensorProto.FLOAT)
    rows = b("Reshape", typed, b("Concat", b.constant([-1]), groups, entries, axis=0))
    table = b("Reshape", "table", b("Concat", groups, entries, outputs, axis=0))
    multiply = "MatMulInteger" if integer else "MatMul"
    sums = b(multiply, b("Transpose", rows, perm=[1, 0, 2]), table)
    if integer:
        sums = b("Cast", sums, to=TensorProto.FLOAT)
    sums = b("Transpose", sums, perm=[1, 0, 2])
    shape = b("Concat", b.size(one_hot, 0, -2), b.constant([-1]), axis=0)
    return b("Add", b("Mul", b("Reshape", sums, shape), "scale"), "bias")
