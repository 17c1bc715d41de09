"""A Conv2d by look-up tables, encoded straight from the activation map."""

from __future__ import annotations

from torch import Tensor

from halut.layers.base import LUTLayer
from halut.ops import ConvGeometry, identity_gradient
from halut.sites.find import Site


class LUTConv2d(LUTLayer):
    """x [B, C_in, H, W] -> [B, M, OH, OW]; groups, depthwise, stride, dilation, padding.

    The rows are the im2col rows, channel-major, which an encoder with its own operator reads from
    the map in place.
    See LUTLayer.
    """

    def source(self, x: Tensor) -> tuple[Tensor, ConvGeometry]:
        return x, window_of(self.site, x)

    def shaped(self, y: Tensor, x: Tensor) -> Tensor:
        if y.ndim == 4:
            return y
        g = self.site.geometry
        assert g is not None
        height, width = g.output_size(x.shape[2], x.shape[3])
        return y.view(x.shape[0], height, width, self.site.M).permute(0, 3, 1, 2)

    def exact_gradient(self, y: Tensor, x: Tensor, share: float) -> Tensor:
        _, geometry = self.source(x)
        weight = self.weight.view(self.site.M, -1, *geometry.kernel_size)
        return identity_gradient(y, x, weight, geometry, share)


def window_of(site: Site, x: Tensor) -> ConvGeometry:
    """The window of a convolution's site on the map x, whose size its padding may depend on."""
    g = site.geometry
    assert g is not None
    pads = g.pads(x.shape[2], x.shape[3])
    return ConvGeometry(g.kernel, g.stride, pads, g.dilation, site.groups)
