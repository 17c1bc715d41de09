"""A sum of signs, each of what those before it have left over (Ghasemzadeh et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from halut.codecs.base import Codec, Coded, Layout, codecs
from halut.codecs.planes import Planes
from halut.codecs.straight_through import straight_through
from halut.configs import BinaryResidual


@codecs.register("binary_residual")
class BinaryResidualCodec(Codec):
    """q = sum_l |g_l| sign(r_l), r_1 = x, r_(l+1) = r_l - |g_l| sign(r_l); bit l of a code is 1
    where r_l >= 0.

    g [L] is learned (role basis), by dq/dg_l = sign(g_l) sign(r_l). It starts at 2 (L + 1 - l) /
    (L (L + 1)), 2/3 and 1/3 for L = 2, which is the scale of normalized activations; `calibrate`
    takes the mean magnitude of every residual instead, unless halut.fitted is false.
    """

    Config = BinaryResidual
    scale_bits = 32
    binary = True

    def __init__(self, layout: Layout, options: BinaryResidual | None = None) -> None:
        super().__init__(layout, options)
        L = self.options.levels
        self.g = nn.Parameter(torch.arange(L, 0, -1) * 2.0 / (L * (L + 1)))

    @property
    def width(self) -> int:
        return self.options.levels

    def scale_count(self) -> int:
        return self.width if self.layout.dynamic else 0

    @torch.no_grad()
    def calibrate(self, values: Tensor, *, seed: int = 0, keep_mask: Tensor | None = None) -> None:
        if not self.options.fitted:
            return
        r = values if keep_mask is None else values[keep_mask.expand_as(values)]
        for level in range(self.width):
            self.g[level] = r.abs().mean() if r.numel() else 0.0
            r = r - torch.where(r >= 0, self.g[level], -self.g[level])

    def scales(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        return self.g.detach().abs()

    def encode(self, x: Tensor, scales: Tensor | None = None) -> Coded:
        scales = self.scales(x) if scales is None else scales
        codes, r = torch.zeros_like(x, dtype=torch.int32), x
        for level in range(self.width):
            above = r >= 0
            codes = codes | (above.to(torch.int32) << level)
            r = r - torch.where(above, scales[level], -scales[level])
        return Coded(codes, scales)

    def decode(self, coded: Coded) -> Tensor:
        assert coded.scales is not None
        return self._combined(coded.codes, coded.scales)

    def _combined(self, codes: Tensor, factors: Tensor) -> Tensor:
        """sum_l factors[l] * (+1 or -1 by bit l), in this order."""
        total = torch.where(codes & 1 > 0, factors[0], -factors[0])
        for level in range(1, self.width):
            positive = (codes >> level) & 1 > 0
            total = total + torch.where(positive, factors[level], -factors[level])
        return total

    def planes(self, scales: Tensor | None) -> Planes:
        assert scales is not None
        return Planes(scales[None], signed=True)

    def limits(self, scales: Tensor | None) -> tuple[Tensor, Tensor]:
        assert scales is not None
        return -scales.sum(), scales.sum()

    def quantize(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            values = x.float()
            coded = self.encode(values)
            mask = self.gradient_mask(values, coded.scales) if x.requires_grad else None
        q = self._combined(coded.codes, self.g.abs()).to(x.dtype)
        return straight_through(x, q, mask)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"basis": [self.g]}
