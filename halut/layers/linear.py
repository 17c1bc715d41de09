"""A Linear by look-up tables."""

from __future__ import annotations

from torch import Tensor

from halut.layers.base import LUTLayer
from halut.ops import ConvGeometry, identity_gradient


class LUTLinear(LUTLayer):
    """x [..., D] -> [..., M]; see LUTLayer."""

    def encoder_input(self, x: Tensor) -> tuple[Tensor, ConvGeometry | None]:
        return self.encoder.in_units(x.reshape(-1, self.site.D)), None

    def shaped(self, y: Tensor, x: Tensor) -> Tensor:
        return y.view(*x.shape[:-1], self.site.M)

    def exact_gradient(self, y: Tensor, x: Tensor, share: float) -> Tensor:
        return identity_gradient(y, x, self.weight, None, share)
