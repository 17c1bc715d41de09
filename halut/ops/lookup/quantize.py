"""Fake quantization of a training table: int8 entries with one scale per output."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.core.checks import check_floating, check_table
from halut.ops.table_quantization import check_options, quantize_table


def quantize(lut: Tensor, bits: int, scale: str, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q [G, C, K, M] int8, scale [G * M] and offset [G, C, 1, M] of
    table_quantization.quantize_table.

    lut ~ scale * q + offset. scale is "channel" or "layer" (all G * M are equal); clip a scalar
    tensor. No gradient. Raises HalutError on unknown options.
    """
    check_options(bits, scale)
    if scale == "codebook":
        raise HalutError("sums of int8 entries need halut.scale channel or layer, got codebook")
    check_floating("lut", lut, 4)
    check_table("lut", lut)
    return torch.ops.halut.quantize(lut.detach(), bits, scale, clip.detach())


@torch.library.custom_op("halut::quantize", mutates_args=())
def _quantize(lut: Tensor, bits: int, scale: str, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return dispatch.run("quantize", lut.device, lut, bits, scale, clip)


@_quantize.register_fake
def _(lut: Tensor, bits: int, scale: str, clip: Tensor) -> tuple[Tensor, ...]:
    G, C, _, M = lut.shape
    q = lut.new_empty(lut.shape, dtype=torch.int8)
    return q, lut.new_empty(G * M), lut.new_empty(G, C, 1, M)


@dispatch.implementation("quantize", "torch")
def quantize_torch(
    lut: Tensor, bits: int, scale: str, clip: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`quantize_table` itself."""
    table = quantize_table(lut, bits, scale, clip)
    return table.q.to(torch.int8), table.output_scale().clone(), table.offset
