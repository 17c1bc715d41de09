"""Inference layers of sign-magnitude products of bytes, summed in int32."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from halut.codecs.powers import times_power
from halut.errors import HalutError
from halut.inference.base import InferenceLayer, absent
from halut.layers.codec import CodecLayer, canonical_input
from halut.ops.core.finite import marked
from halut.ops.geometry import pad
from halut.ops.integer.sign_magnitude import sign_magnitude
from halut.sites.find import Site


class SignMagnitudeLayer(InferenceLayer):
    """y = 2^S sum_d sgn(w) sgn(x) |w||x| + b, the sums exact at any size; nothing has a gradient.

    codes int8 [groups, M / groups, taps * C] of the weight, exponent S int32 [M], bias float [M].
    The input is quantized to bytes at every call; patches of a convolution are patches of them.
    """

    codes: Tensor
    exponent: Tensor
    bias: Tensor | None
    weight = property(absent)

    def __init__(self, layer: CodecLayer) -> None:
        super().__init__()
        site, weight, activation = layer.site, layer.weight_codec, layer.activation_codec
        assert weight is not None
        assert activation is not None
        self.site = site
        coded = weight.encode(layer.canonical_weight().detach().float())
        shared = activation.scales(torch.zeros(activation.layout.shape, device=coded.codes.device))
        assert coded.scales is not None
        assert shared is not None
        codes = coded.codes.to(torch.int8).reshape(site.groups, site.M // site.groups, site.D)
        self.register_buffer("codes", codes.contiguous())
        exponent = (coded.scales + shared.flatten()).flatten().expand(site.M)
        self.register_buffer("exponent", exponent.contiguous())
        bias = layer.quantized_bias()
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())
        self.activation_codec = copy.deepcopy(activation)

    def forward(self, input: Tensor) -> Tensor:
        """The layer's answer, in its input's dtype."""
        self.check(input)
        x = input
        codes = self.activation_codec.encode(canonical_input(x, self.site).float()).codes
        patches = patches_of(codes.to(torch.int8), x, self.site)
        sums = sign_magnitude(patches.reshape(-1, self.site.groups * self.site.D), self.codes)
        y = times_power(sums.float(), self.exponent)
        if self.bias is not None:
            y = y + self.bias
        y = y.to(x.dtype)
        if self.site.geometry is None:
            return marked(y.view(*x.shape[:-1], self.site.M), x, None, self.site.groups)
        y = y.view(*patches.shape[:3], self.site.M).permute(0, 3, 1, 2)
        return marked(y, x, self.site.geometry.on(x), self.site.groups)


def patches_of(codes: Tensor, x: Tensor, site: Site) -> Tensor:
    """Codes [.., groups, C] of a layer's input x as the rows of its product, zeros around maps.

    [.., groups, C] of a Linear, [B, OH, OW, groups, taps, C] of a convolution.
    """
    g = site.geometry
    if g is None:
        if x.shape[-1] != site.D:
            raise HalutError(f"{site.name} takes {site.D} inputs, got {list(x.shape)}")
        return codes
    maps = pad(codes.flatten(-2).permute(0, 3, 1, 2), g).permute(0, 2, 3, 1)
    height, width = g.output_size(x.shape[2], x.shape[3])
    (kh, kw), (sh, sw), (dh, dw) = g.kernel_size, g.stride, g.dilation
    count = torch.arange(max(height, width, kh, kw), device=x.device)
    rows = count[:height, None] * sh + count[:kh] * dh  # [OH, kh]
    columns = count[:width, None] * sw + count[:kw] * dw  # [OW, kw]
    windows = maps[:, rows[:, None, :, None], columns[None, :, None, :]]  # [B, OH, OW, kh, kw, G C]
    C = site.D // site.taps
    return windows.view(-1, height, width, site.taps, site.groups, C).transpose(3, 4)
