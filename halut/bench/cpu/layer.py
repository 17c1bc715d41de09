"""Benchmark of whole layers at inference: tables against float32 and INT8 products."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from halut.bench import inputs
from halut.bench.cpu import onednn
from halut.bench.method import Method
from halut.bench.suites import Case
from halut.inference.onednn import Grid, Int8Product, available
from halut.inference.table_layers import PackedLayer, packed
from halut.ops.core import dispatch

INT8_ERROR = 0.05
"""What 8-bit activations and weights may err by: about 0.01 on these inputs."""


def methods(case: Case, int8_only: bool = False) -> list[Method]:
    """Ours and every baseline on one input; `int8_only`: ours and INT8."""
    x, exact = inputs.activations(case), inputs.exact_layer(case).requires_grad_(False)
    found = ours(case, x, int8_only)
    if not int8_only:
        found += float_methods(exact, x)
    if available():
        found.append(int8_method(exact, x))
    return found


def ours(case: Case, x: Tensor, int8_only: bool) -> list[Method]:
    """The table layer prepared for inference: float32 to float32, and int8 to int8."""
    layer = packed(inputs.learned_layer(case))
    reference = forced("torch", lambda: layer(x))()
    candidates = []
    if not int8_only:
        candidates += _both_formats("ours", layer, x, reference)
        if dispatch.implementations()["tree_layer"] != "torch":
            run = forced("torch", lambda: layer(x))
            candidates.append(Method("ours_torch", run, reference, 1e-5))
    narrow, q = in_int8(layer, x, reference)
    return candidates + _both_formats("ours_int8", narrow, q, forced("torch", lambda: narrow(q))())


def in_int8(layer: PackedLayer, x: Tensor, y: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """(the same layer from int8 to int8, x in int8); the scales are those of x's and y's range.

    Thresholds move to the scale of the inputs, scale and bias to that of the answers: there is
    nothing more to do at inference.
    """
    x_scale, y_scale = float(x.abs().max()) / 127, float(y.abs().max()) / 127
    thresholds = layer.thresholds / x_scale
    answer = (layer.scale / y_scale, layer.bias / y_scale, None, torch.int8)

    def run(q: Tensor) -> Tensor:
        return layer.operate(q, answer, thresholds=thresholds)

    return run, (x / x_scale).round().to(torch.int8)


def _both_formats(
    name: str, run: Callable[[Tensor], Tensor], x: Tensor, reference: Tensor
) -> list[Method]:
    """The method on x, and on a map also channels_last."""
    tolerance = 1e-5 if reference.is_floating_point() else 0.0
    candidates = [Method(name, lambda: run(x), reference, tolerance)]
    if x.ndim == 4:
        channels_last = x.contiguous(memory_format=torch.channels_last)
        last = f"{name}_channels_last"
        candidates.append(Method(last, lambda: run(channels_last), reference, tolerance))
    return candidates


def float_methods(exact: nn.Module, x: Tensor) -> list[Method]:
    """The exact layer in float32; maps also channels_last."""
    candidates = [Method("float32", lambda: exact(x))]
    if x.ndim == 4:
        channels_last = x.contiguous(memory_format=torch.channels_last)
        layer = copy.deepcopy(exact).to(memory_format=torch.channels_last)
        candidates.append(
            Method("float32_channels_last", lambda: layer(channels_last), exact(x), 1e-4)
        )
    return candidates


def int8_method(exact: Any, x: Tensor) -> Method:
    """oneDNN from uint8 (channels_last) to uint8, as between the layers of an INT8 network."""
    reference = exact(x)
    grid, to = Grid.around(x), Grid.around(reference)
    product = Int8Product(exact, grid, to, x.shape)
    q = grid.quantize(x)
    if q.ndim == 4:
        q = q.contiguous(memory_format=torch.channels_last)

    def run() -> Tensor:
        return product(q)

    notes = {"kernels": onednn.kernels_of(run)}
    return Method("int8", run, reference, INT8_ERROR, lambda: to.dequantize(run()), notes)


def forced(name: str, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """`run` with one implementation of every operation."""

    def inside() -> Tensor:
        with dispatch.forced(name):
            return run()

    return inside
