"""Codecs: layers of LQ-Nets that count bits, and products of signs and magnitudes as integers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from halut.bench import inputs
from halut.bench.cpu.layer import float_methods
from halut.bench.method import Method
from halut.bench.suites import Case
from halut.inference.bit_layers import BitLayer
from halut.layers.codec import CodecLayer
from halut.ops import bit_product, sign_magnitude
from halut.replace.operator_registry import make_operator
from halut.sites.find import site_of

ROUNDING = 1e-5
"""Factors are floats in the one; in the other float32 sums are not exact beyond 2^24."""


def bit_methods(case: Case) -> list[Method]:
    """Ours from floats to floats, of packed words alone, and the exact layer's."""
    x, exact = inputs.activations(case), inputs.exact_layer(case).requires_grad_(False)
    layer = counted(case)
    reference, counting = layer(x), BitLayer(layer)
    found = [Method("ours", lambda: counting(x), reference, ROUNDING)]
    if x.ndim == 4:
        channels_last = x.contiguous(memory_format=torch.channels_last)
        found.append(
            Method("ours_channels_last", lambda: counting(channels_last), reference, ROUNDING)
        )
    return [*found, product_alone(counting, x, reference), *float_methods(exact, x)]


def counted(case: Case) -> CodecLayer:
    """The layer of LQ-Nets in place of `exact_layer(case)`, its bases as published."""
    exact, width = inputs.exact_layer(case), case.options["width"]
    options = {"width": width, "fitted": False, "contraction": "popcount"}
    layer = make_operator("lqnet", **options).build(site_of(case.name, exact, 1), exact)
    assert isinstance(layer, CodecLayer)
    return copy.deepcopy(layer).eval().requires_grad_(False)


def product_alone(layer: BitLayer, x: Tensor, reference: Tensor) -> Method:
    """The product of words that are packed already, as rows."""
    words, constant = layer.packed(x), layer.constant

    def run() -> Tensor:
        return bit_product(words, layer.words, layer.alpha, layer.beta, constant, layer.site.D)

    rows = reference if reference.ndim == 2 else reference.permute(0, 2, 3, 1).flatten(0, 2)
    return Method("ours_product", run, rows, ROUNDING)


def sign_magnitude_methods(case: Case) -> list[Method]:
    """Ours, the signed INT8 product and float32, of x [N, D] int8 and weight [M, D] int8; torch's
    own integer product is the reference."""
    N, D, M = (case.shape[name] for name in ("N", "D", "M"))
    generator = inputs.generator(case)
    x, weight = (
        torch.randint(-128, 128, size, dtype=torch.int8, generator=generator)
        for size in ((N, D), (M, D))
    )
    reference = x.long() @ weight.long().T
    groups, columns = weight[None], weight.T
    floats = x.float(), columns.float()
    return [
        Method("ours", lambda: sign_magnitude(x, groups), reference),
        Method("int8", lambda: torch._int_mm(x, columns), reference),
        Method("float32", lambda: floats[0] @ floats[1], reference, ROUNDING),
    ]
