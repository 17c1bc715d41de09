"""A Conv2d by look-up tables, encoded straight from the activation map."""

from __future__ import annotations

from torch import Tensor

from halut.layers.base import LUTLayer
from halut.ops import ConvGeometry, conv_taps, identity_gradient, im2col


class LUTConv2d(LUTLayer):
    """x [B, C_in, H, W] -> [B, M, OH, OW]; groups, depthwise, stride, dilation, padding.

    The rows are the im2col rows, channel-major; only the columns the encoder reads are gathered.
    The output lies in memory channels-last. See LUTLayer.
    """

    def inputs(self, x: Tensor) -> Tensor:
        g = self.site.geometry
        assert g is not None
        pads = list(g.pads(x.shape[2], x.shape[3]))
        if self.encoder.taps is None:
            return im2col(x, list(g.kernel), list(g.stride), pads, list(g.dilation))
        taps = self.encoder.taps
        return conv_taps(x, taps, list(g.kernel), list(g.stride), pads, list(g.dilation))

    def shaped(self, y: Tensor, x: Tensor) -> Tensor:
        g = self.site.geometry
        assert g is not None
        height, width = g.output_size(x.shape[2], x.shape[3])
        return y.view(x.shape[0], height, width, self.site.M).permute(0, 3, 1, 2)

    def exact_gradient(self, y: Tensor, x: Tensor, share: float) -> Tensor:
        g = self.site.geometry
        assert g is not None
        pads = g.pads(x.shape[2], x.shape[3])
        geometry = ConvGeometry(g.kernel, g.stride, pads, g.dilation, self.site.groups)
        weight = self.weight.view(self.site.M, -1, *g.kernel)
        return identity_gradient(y, x, weight, geometry, share)
