"""Benchmark of whole layers on a GPU, beside the convolution or product in FP16 and INT8."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halut.bench import inputs
from halut.bench.cpu.layer import forced, in_int8
from halut.bench.cuda.floors import work
from halut.bench.cuda.precision import in_tf32
from halut.bench.cuda.products import int8_product
from halut.bench.method import Method
from halut.bench.suites import Case
from halut.inference.table_layers import packed

ROUNDING = {torch.float32: 1e-5, torch.float16: 1e-3, torch.int8: 1e-2}
"""Tolerances of ours: torch's own operators may round a product and a sum at once."""


def methods(case: Case, device: str) -> list[Method]:
    """Ours from float16 to float16 and from int8 to int8; the exact layer, maps channels_last.

    `int8` is the product of im2col rows made beforehand alone, to int32: torch has no INT8
    convolution on a GPU.
    """
    exact = inputs.exact_layer(case).requires_grad_(False).to(device)
    layer = packed(inputs.drawn_layer(case)).to(device)
    x = inputs.activations(case).to(device)
    full, half = _channels_last(x), _channels_last(x.half())
    narrow, q = in_int8(layer, x, forced("torch", lambda: layer(x))())
    q = _channels_last(q)
    found = [_ours("ours", layer, half, layer.table)]
    if x.ndim == 4:
        found.append(_ours("ours_contiguous", layer, x.half(), layer.table))
    found.append(_ours("ours_float32", layer, full, layer.table))
    found.append(_ours("ours_int8", narrow, q, layer.table))
    return found + _exact(exact, full, half) + int8_product(*_rows(exact, x))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _ours(name: str, layer: Any, x: Tensor, table: Tensor) -> Method:
    run = lambda: layer(x)  # noqa: E731
    reference = forced("torch", run)()
    return Method(name, run, reference, ROUNDING[x.dtype], notes=work(x, table, reference))


def _exact(exact: nn.Module, x: Tensor, half: Tensor) -> list[Method]:
    if x.ndim == 4:
        exact = exact.to(memory_format=torch.channels_last)
    small: nn.Module = copy.deepcopy(exact).half()
    full, narrow = lambda: exact(x), lambda: small(half)
    reference, output = full(), narrow()
    assert isinstance(exact.weight, Tensor)
    operations = 2 * reference.numel() * exact.weight[0].numel()

    def notes(precision: str, *tensors: Any) -> dict[str, Any]:
        return work(*tensors, operations=operations, precision=precision)

    wide = x, exact.weight, reference
    return [
        Method("float32", full, notes=notes("float32", *wide)),
        Method("tf32", in_tf32(full), reference, 1e-2, notes=notes("tf32", *wide)),
        Method(
            *("float16", narrow, reference, 1e-2),
            notes=notes("float16", half, small.weight, output),
        ),
    ]


def _rows(exact: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(im2col rows [N, D], weight [M, D]), each in int8 by a scale of its own."""
    if isinstance(exact, nn.Conv2d):
        window = exact.kernel_size, exact.dilation, exact.padding, exact.stride
        x = F.unfold(x, *window).transpose(1, 2).flatten(0, 1)  # type: ignore[arg-type]
    assert isinstance(exact.weight, Tensor)
    return _in_int8(x), _in_int8(exact.weight.flatten(1))


def _in_int8(x: Tensor) -> Tensor:
    return (x * (127 / x.abs().max())).round().to(torch.int8)
