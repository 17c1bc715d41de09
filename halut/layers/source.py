"""The input of a layer as its tables read it: encoded by the layer, or for several at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from halut.encoders.base import folded
from halut.layers import shared_product
from halut.layers.shared_product import Encoded

if TYPE_CHECKING:
    from halut.layers.base import LUTLayer


def source_of(layer: LUTLayer, x: Tensor) -> Source:
    """x, in the encoder's unit, for the layer's tables.

    With the codes of others that read it, if they share an encoder.
    """
    if not torch.compiler.is_compiling():
        relax = None if layer.estimator == "identity" else layer.relax()
        encoded = layer.encoder.shared.encoded(layer, x, relax)
        if encoded is not None:
            return SharedSource(layer, x, encoded)
    return Source(layer, x)


class Source:
    """Encoded by the layer alone: one operator where its encoder has one."""

    def __init__(self, layer: LUTLayer, x: Tensor) -> None:
        self.layer, self.x = layer, x

    def codes(self) -> Tensor:
        """[N, G * C] uint8."""
        return self.layer.encoder.codes(*self.layer.source(self.x.detach()))

    def product(self, lut: Tensor, table: Tensor) -> Tensor:
        """Encoder.product of this input."""
        layer = self.layer
        rows, geometry = layer.source(self.x)
        return layer.encoder.product(rows, geometry, lut, table, layer.tau, layer.relax())

    def answer(
        self, lut: Tensor, table: tuple[Tensor, Tensor, Tensor], bias: Tensor | None
    ) -> Tensor:
        """Encoder.answer of this input."""
        layer = self.layer
        rows, geometry = layer.source(self.x)
        given = (lut, table, bias, layer.tau, layer.relax())
        return layer.encoder.answer(rows, geometry, *given)


class SharedSource(Source):
    """Codes that are known: the same values, and gradients equal up to rounding."""

    def __init__(self, layer: LUTLayer, x: Tensor, encoded: Encoded) -> None:
        super().__init__(layer, x)
        self.encoded = encoded

    def codes(self) -> Tensor:
        return self.encoded.codes

    def product(self, lut: Tensor, table: Tensor) -> Tensor:
        return shared_product.product(self.encoded, lut, table)

    def answer(
        self, lut: Tensor, table: tuple[Tensor, Tensor, Tensor], bias: Tensor | None
    ) -> Tensor:
        q, scale, offset = table
        shift = folded(offset, bias)
        if lut.dtype != torch.float32:
            steps = scale.view(q.shape[0], 1, 1, -1)
            return self.product((lut - offset) / steps, q.to(lut.dtype)) * scale + shift
        rows, geometry = self.layer.source(self.x)
        whole = geometry is not None and self.layer.encoder.whole_maps
        like = (rows.detach(), geometry) if whole and geometry is not None else None
        return shared_product.answer(self.encoded, lut, q, scale, shift, like)
