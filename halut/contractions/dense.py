"""The decoded values multiplied as they are: the reference, and how training runs."""

from __future__ import annotations

from torch import Tensor

from halut.contractions.base import Contraction, Quantized, contractions
from halut.sites.find import exact_product


@contractions.register("dense")
class Dense(Contraction):
    """y = Qx(x) Qw(W)' + Qb(b), a floating-point product; any codecs."""

    def product(self, layer: Quantized, x: Tensor) -> Tensor:
        weight, bias = layer.quantized_weight(), layer.quantized_bias()
        return exact_product(layer.quantized_input(x), weight, bias, layer.site)
