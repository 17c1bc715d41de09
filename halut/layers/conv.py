"""A Conv2d by look-up tables, encoded straight from the activation map."""

from __future__ import annotations

from torch import Tensor

from halut.layers.base import LUTLayer
from halut.ops import ConvGeometry, identity_gradient
from halut.ops.epilogue import as_map


class LUTConv2d(LUTLayer):
    """x [B, C_in, H, W] -> [B, M, OH, OW]; groups, depthwise, stride, dilation, padding.

    The rows are the im2col rows, channel-major, which an encoder with its own operator reads from
    the map in place.
    See LUTLayer.
    """

    def encoder_input(self, x: Tensor) -> tuple[Tensor, ConvGeometry]:
        geometry = self.site.geometry
        assert geometry is not None
        return self.encoder.in_units(x), geometry.on(x) if geometry.same else geometry

    def shaped(self, y: Tensor, x: Tensor) -> Tensor:
        assert self.site.geometry is not None
        return as_map(y, x, self.site.geometry)

    def exact_gradient(self, y: Tensor, x: Tensor, share: float) -> Tensor:
        assert self.site.geometry is not None
        geometry = self.site.geometry.on(x)
        weight = self.weight.view(self.site.M, -1, *geometry.kernel_size)
        return identity_gradient(y, x, weight, geometry, share)
