"""The decoded values multiplied as they are: the reference, and how training runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from halut.contractions.base import Contraction, contractions
from halut.sites.find import exact_product

if TYPE_CHECKING:
    from halut.layers.codec import CodecLayer


@contractions.register("dense")
class Dense(Contraction):
    """y = Qx(x) Qw(W)' + Qb(b), a floating-point product; any codecs."""

    def product(self, layer: CodecLayer, x: Tensor) -> Tensor:
        weight, bias = layer.quantised_weight(), layer.quantised_bias()
        return exact_product(layer.quantised_input(x), weight, bias, layer.site)
