"""FLOPs of halut's operators, for torch.utils.flop_counter.FlopCounterMode.

The agreement: an addition counts 1, a compare of an encoder 1, a multiply-add 2, as in torch's own
formulas. A look-up is a read of memory and counts nothing; the addition of its entry does. Per row:

    tree         log2 K compares a code
    nearest      2 D K for distances (multiply-adds of l2, subtractions and adds of l1, subtractions
                 and compares of chebyshev), and K - 1 compares a code for the least
    table        C M additions for every group
    backward     C M additions for the table's gradient, 2 C K M for what every entry would change
                 of the answer; of prototypes 4 D K more
    carry        2 D M, the exact product's gradient
    integers     2 D M for the exact product of codes; of bit planes for every pair of planes

As torch counts neither compares nor additions by element, neither are scaling, rounding, softmax
and pooling counted here; nor is an encoder that has no operator of its own. Without its backward a
table layer counts 2 encode_macs + encode_compares + encode_adds + adds of its cost().

The formulas are registered when torch.utils.flop_counter is imported, before or after this: it
imports triton, which takes as long as much of torch.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

from halut.ops.geometry import ConvGeometry

MODULE = "torch.utils.flop_counter"
UNCOUNTED = (
    *("bit_planes", "conv_taps", "conv_taps_backward", "max_pool", "mean_pool"),
    *("mxint8_dequantize", "quantize"),
)
"""Operators that gather, round or pool: what torch's own formulas do not count either."""

Shape = Sequence[int]


def _table(rows: int, table: Shape) -> int:
    """Additions of `rows` rows by a table [G, C, K, M]."""
    G, C, _, M = table
    return rows * G * C * M


def _tree(rows: int, thresholds: Shape) -> int:
    """Compares of `rows` rows by trees of thresholds [GC, K - 1]."""
    return rows * thresholds[0] * (thresholds[1] + 1).bit_length() - rows * thresholds[0]


def _nearest(rows: int, prototypes: Shape, inputs: int) -> int:
    """Distances of `rows` rows of `inputs` to prototypes [GC, K, V], and the least of them."""
    GC, K, _ = prototypes
    return rows * (2 * inputs * K + GC * (K - 1))


def _inputs(x: Shape, kernel_size: Sequence[int]) -> int:
    """Columns of the rows of x, or of those of a map that a kernel reads."""
    return x[1] * math.prod(kernel_size) if kernel_size else x[1]


def _kernel_size(numbers: Sequence[int]) -> Sequence[int]:
    geometry = ConvGeometry.of_numbers(tuple(numbers))
    return geometry.kernel_size if geometry else ()


def _rows(answer: Shape, table: Shape) -> int:
    """Rows of an answer [N, G * M] or [B, G * M, OH, OW]."""
    return math.prod(answer) // (table[0] * table[3])


def _entries(rows: int, lut: Shape, ste_mix: float, tables: bool) -> int:
    """The backward of a table [G, C, K, M]: what its entries would change, and its gradient."""
    G, C, K, M = lut
    return rows * G * C * M * ((2 * K if ste_mix else 0) + (1 if tables else 0))


def accumulate(codes: Shape, table: Shape, *_: Any, **__: Any) -> int:
    return _table(codes[0], table)


def scatter_add(codes: Shape, grad: Shape, groups: int, *_: Any, **__: Any) -> int:
    return codes[0] * codes[1] // groups * grad[1]


def tree_encode(x: Shape, split_dims: Shape, thresholds: Shape, *_: Any, out_shape: Shape) -> int:
    return _tree(out_shape[0], thresholds)


def tree_matmul(
    x: Shape, split_dims: Shape, thresholds: Shape, lut: Shape, *_: Any, out_shape: Sequence[Shape]
) -> int:
    rows = _rows(out_shape[0], lut)
    return _tree(rows, thresholds) + _table(rows, lut)


def tree_train(
    x: Shape, split_dims: Shape, thresholds: Shape, lut: Shape, *_: Any, out_shape: Any
) -> int:
    rows = _rows(out_shape, lut)
    return _tree(rows, thresholds) + _table(rows, lut)


def tree_layer(
    x: Shape, split_dims: Shape, thresholds: Shape, table: Shape, *_: Any, out_shape: Shape
) -> int:
    rows = _rows(out_shape, table)
    return _tree(rows, thresholds) + _table(rows, table)


def tree_matmul_backward(
    grad: Shape,
    x: Shape,
    split_dims: Shape,
    thresholds: Shape,
    lut: Shape,
    codes: Shape,
    tau: Shape,
    ste_mix: float,
    tables: bool,
    *_: Any,
    **__: Any,
) -> int:
    return _entries(_rows(grad, lut), lut, ste_mix, tables)


def tree_train_backward(
    grad: Shape,
    x: Shape,
    split_dims: Shape,
    thresholds: Shape,
    lut: Shape,
    tau: Shape,
    ste_mix: float,
    tables: bool,
    *_: Any,
    **__: Any,
) -> int:
    rows = _rows(grad, lut)  # whose codes are found again
    return _tree(rows, thresholds) + _entries(rows, lut, ste_mix, tables)


def nearest_encode(
    x: Shape,
    prototypes: Shape,
    metric: str,
    groups: int,
    geometry: Sequence[int],
    *,
    out_shape: Shape,
) -> int:
    return _nearest(out_shape[0], prototypes, _inputs(x, _kernel_size(geometry)))


def nearest_matmul(
    x: Shape,
    prototypes: Shape,
    lut: Shape,
    table: Shape,
    tau: Shape,
    metric: str,
    ste_mix: float,
    geometry: Sequence[int],
    *,
    out_shape: Sequence[Shape],
) -> int:
    rows = _rows(out_shape[0], lut)
    return _nearest(rows, prototypes, _inputs(x, _kernel_size(geometry))) + _table(rows, lut)


def nearest_layer(
    x: Shape,
    prototypes: Shape,
    metric: str,
    groups: int,
    table: Shape,
    packed: Shape,
    scale: Shape,
    bias: Shape,
    low: float | None,
    dtype: torch.dtype,
    kernel_size: Sequence[int] = (),
    *_: Any,
    out_shape: Shape,
) -> int:
    rows = _rows(out_shape, table)
    return _nearest(rows, prototypes, _inputs(x, kernel_size)) + _table(rows, table)


def nearest_matmul_backward(
    grad: Shape,
    x: Shape,
    prototypes: Shape,
    lut: Shape,
    codes: Shape,
    tau: Shape,
    metric: str,
    ste_mix: float,
    tables: bool,
    geometry: Sequence[int],
    **_: Any,
) -> int:
    rows = _rows(grad, lut)
    pulled = 4 * rows * _inputs(x, _kernel_size(geometry)) * prototypes[1] if ste_mix else 0
    return _entries(rows, lut, ste_mix, tables) + pulled


def carry_gradient(
    grad: Shape, x: Shape, codes: Shape, prototypes: Shape, weight: Shape, *_: Any, **__: Any
) -> int:
    return 2 * codes[0] * weight[0] * weight[1]


def sign_magnitude(x: Shape, weight: Shape, **_: Any) -> int:
    return 2 * x[0] * math.prod(weight)


def bit_product(
    x: Shape, w: Shape, alpha: Shape, beta: Shape, bias: Shape, D: int, **_: Any
) -> int:
    planes = x[2] * w[2]
    return 2 * x[0] * w[0] * w[3] * D * planes


FORMULAS: dict[str, Callable[..., int]] = {
    **{"accumulate": accumulate, "code_layer": accumulate, "scatter_add": scatter_add},
    **{"tree_encode": tree_encode, "tree_matmul": tree_matmul, "tree_train": tree_train},
    **{"tree_layer": tree_layer, "tree_matmul_backward": tree_matmul_backward},
    **{"tree_train_backward": tree_train_backward, "nearest_encode": nearest_encode},
    **{"nearest_matmul": nearest_matmul, "nearest_layer": nearest_layer},
    **{"nearest_matmul_backward": nearest_matmul_backward, "carry_gradient": carry_gradient},
    **{"sign_magnitude": sign_magnitude, "bit_product": bit_product},
}
"""The formula of every counted operator: of its arguments, tensors as their shapes, and of the
answer's shape, `out_shape`."""


class _Registration(MetaPathFinder):
    """Finds torch.utils.flop_counter, so that the formulas are registered as it is loaded."""

    def __init__(self) -> None:
        self.searching = False

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        if name != MODULE or self.searching:
            return None
        self.searching = True
        try:
            spec: ModuleSpec | None = importlib.util.find_spec(name)
        finally:
            self.searching = False
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Register the formulas, now or when torch's FLOP counter is imported."""
    if MODULE in sys.modules:
        _register(sys.modules[MODULE])
    else:
        sys.meta_path.insert(0, _Registration())


def _register(module: Any) -> None:
    for name, formula in FORMULAS.items():
        operator = getattr(torch.ops.halut, name)
        if operator not in module.flop_registry:
            module.register_flop_formula(operator)(formula)
