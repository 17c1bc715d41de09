"""Whole layers at inference: tables against float32 and INT8 products of the same shape."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from halut.bench import inputs, onednn
from halut.bench.method import Method
from halut.bench.suites import Case
from halut.ops import dispatch

INT8_ERROR = 0.05
"""What 8-bit activations and weights may err by: about 0.01 on these inputs."""


def methods(case: Case, int8_only: bool = False) -> list[Method]:
    """Ours and every baseline on one input; `int8_only`: ours and INT8."""
    x, exact = inputs.activations(case), inputs.exact_layer(case).requires_grad_(False)
    found = ours(case, x, int8_only)
    if not int8_only:
        found += float_methods(exact, x)
    if onednn.available():
        found.append(int8_method(exact, x))
    return found


def ours(case: Case, x: Tensor, int8_only: bool) -> list[Method]:
    """The table layer by the preferred kernels, and by torch's own operators."""
    layer = inputs.learned_layer(case).requires_grad_(False)
    run = forced("torch", lambda: layer(x))
    reference = run()
    found = [Method("ours", lambda: layer(x), reference, 1e-5)]
    if not int8_only and dispatch.implementations()["accumulate"] != "torch":
        found.append(Method("ours_torch", run, reference, 1e-5))
    return found


def float_methods(exact: nn.Module, x: Tensor) -> list[Method]:
    """The exact layer in float32; maps also channels_last."""
    found = [Method("float32", lambda: exact(x))]
    if x.ndim == 4:
        by_pixel = x.contiguous(memory_format=torch.channels_last)
        layer = copy.deepcopy(exact).to(memory_format=torch.channels_last)
        found.append(Method("float32_channels_last", lambda: layer(by_pixel), exact(x), 1e-4))
    return found


def int8_method(exact: Any, x: Tensor) -> Method:
    """oneDNN from uint8 (channels_last) to uint8, as between the layers of an INT8 network."""
    reference = exact(x)
    grid, to = onednn.Grid.around(x), onednn.Grid.around(reference)
    product = onednn.Int8Product(exact, grid, to, x.shape)
    q = grid.quantise(x)
    if q.ndim == 4:
        q = q.contiguous(memory_format=torch.channels_last)

    def run() -> Tensor:
        return product(q)

    notes = {"kernels": onednn.kernels_of(run)}
    return Method("int8", run, reference, INT8_ERROR, lambda: to.dequantise(run()), notes)


def forced(name: str, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """`run` with one implementation of every operation."""

    def inside() -> Tensor:
        with dispatch.forced(name):
            return run()

    return inside
