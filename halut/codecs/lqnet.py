"""LQ-Nets: a learned basis of binary codes (Zhang et al. 2018)."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from halut.codecs.base import Codec, Coded, Layout, codecs
from halut.codecs.planes import Planes, Steps, just_above
from halut.codecs.straight_through import straight_through
from halut.configs import LQNet

DAMPING = 1e-4
DECAY = 0.9
QUARTILE = 0.6745  # of N(0, 1)
CALIBRATION_STEPS = 100
CALIBRATION_VALUES = 2**20


@codecs.register("lqnet")
class LQNetCodec(Codec):
    """q = v . b, the nearest of 2^n levels, the lower one of a tie; bit j of a code is b_j > 0.

    Weights have b in {-1, +1}^n and a basis v for every output, v [M, n]; activations b in {0, 1}^n
    and one basis, v [1, n], which suits inputs that are not negative, as behind a ReLU. A bias is
    like the weights of one output. The gradient of activations passes where x <= the top level,
    also below the lowest.

    Every training forward adds to B'B and B'x of its codes; `after_step` moves v to
    0.9 v + 0.1 (B'B + d I)^-1 (B'x + d v), d = 1e-4, the sums being those of all ranks. So v is
    constant within a step, whatever is evaluated, and a vector that no code uses stays.

    Start: v_j = s 0.6745 / 2^(n-1) 2^j for weights, s = sqrt(2 / (taps M)), and
    v_j = s 0.6745 * 2 / (2^n - 1) 2^j for activations, s = 1. `calibrate` alternates codes and
    basis from there, s being the root mean square of the data, unless halut.fitted is false.
    """

    Config = LQNet
    scale_bits = 32
    binary = True
    v: Tensor

    def __init__(self, layout: Layout, options: LQNet | None = None) -> None:
        super().__init__(layout, options)
        s = math.sqrt(2 / (layout.shape[0] * layout.shape[1])) if layout.dynamic else 1.0
        R = layout.shape[0] if layout.dynamic else 1
        self.register_buffer("v", (self._unit() * s).repeat(R, 1))
        self._sums: Tensor | None = None  # of the forwards since the last step, [R, n, n + 1]

    def _unit(self) -> Tensor:
        """The start of one basis [n] for values of unit scale."""
        n = self.width
        first = 1 / 2 ** (n - 1) if self.layout.dynamic else 2 / (2**n - 1)
        return QUARTILE * first * 2.0 ** torch.arange(n)

    @property
    def width(self) -> int:
        return self.options.width

    def scale_count(self) -> int:
        return self.v.numel() if self.layout.dynamic else 0

    # -- the map ----------------------------------------------------------------------------

    def scales(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        return self.v

    def levels(self, v: Tensor) -> Tensor:
        """v . b of every code [R, 2^n], in the order of the codes."""
        codes = torch.arange(2**self.width, device=v.device)
        bits = (codes[:, None] >> torch.arange(self.width, device=v.device)) & 1
        return (v[:, None] * self._signs(bits > 0)).sum(-1)

    def _signs(self, bits: Tensor) -> Tensor:
        """b float32 of bits: -1 or 0, and 1."""
        return torch.where(bits, 1.0, -1.0 if self.layout.dynamic else 0.0)

    def _ordered(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Midpoints of the levels [R, 2^n - 1], and the codes by level [R, 2^n]."""
        levels, order = self.levels(v).sort(dim=-1, stable=True)
        return levels[:, :-1].lerp(levels[:, 1:], 0.5), order

    def planes(self, scales: Tensor | None) -> Planes:
        assert scales is not None
        return Planes(scales, self.layout.dynamic)

    def steps(self) -> Steps:
        thresholds, order = self._ordered(self.v)
        return Steps(just_above(thresholds[0]), order[0].to(torch.uint8))

    def encode(self, x: Tensor, scales: Tensor | None = None) -> Coded:
        v = self.v if scales is None else scales
        thresholds, order = self._ordered(v)
        above = torch.searchsorted(thresholds, x.reshape(len(v), -1))
        return Coded(order.gather(1, above).to(torch.int32).view(x.shape), v)

    def decode(self, coded: Coded) -> Tensor:
        v = coded.scales
        assert v is not None
        rows = coded.codes.reshape(len(v), -1).long()
        return self.levels(v).gather(1, rows).view(coded.codes.shape)

    def limits(self, scales: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
        assert scales is not None
        levels = self.levels(scales)
        shape = (-1,) + (1,) * (len(self.layout.shape) - 1)
        low = levels.amin(1).view(shape) if self.layout.dynamic else -math.inf
        return low, levels.amax(1).view(shape)

    # -- learning ---------------------------------------------------------------------------

    def normal_equations(self, x: Tensor, codes: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        """B'B and, as the last column, B'x of x and its codes, [R, n, n + 1] float64.

        Float64, as d is lost beside the counts of float32 where two vectors of B are the same.
        """
        n, R = self.width, len(self.v)
        rows, bits = x.reshape(R, -1), codes.reshape(R, -1)
        B = [self._signs((bits >> j) & 1 > 0) for j in range(n)]
        if keep_mask is not None:
            mask = keep_mask.expand_as(x).reshape(R, -1)
            B = [b * mask for b in B]
        sums = torch.zeros(R, n, n + 1, dtype=torch.float64, device=x.device)
        for j in range(n):
            for k in range(j + 1):
                sums[:, j, k] = sums[:, k, j] = (B[j] * B[k]).sum(1, dtype=torch.float64)
            sums[:, j, n] = (B[j] * rows).sum(1, dtype=torch.float64)
        return sums

    def solved(self, sums: Tensor) -> Tensor:
        """(B'B + d I)^-1 (B'x + d v) [R, n] float64."""
        n = self.width
        eye = torch.eye(n, dtype=sums.dtype, device=sums.device)
        right = sums[..., n] + DAMPING * self.v
        return torch.linalg.solve(sums[..., :n] + DAMPING * eye, right)

    @torch.no_grad()
    def calibrate(self, values: Tensor, *, seed: int = 0, keep_mask: Tensor | None = None) -> None:
        if not self.options.fitted:
            return
        x, keep_mask = self._sampled(values, keep_mask, seed)
        squares = x.double().square() if keep_mask is None else x.double().square() * keep_mask
        count = torch.ones_like(x) if keep_mask is None else keep_mask.to(x.dtype)
        R = len(self.v)
        total = count.reshape(R, -1).sum(1).clamp_min(1)
        s = (squares.reshape(R, -1).sum(1) / total).sqrt()[:, None]
        self.v.copy_(torch.where(s > 0, s * self._unit().to(s), self.v))
        for _ in range(CALIBRATION_STEPS):
            v = self.solved(self.normal_equations(x, self.encode(x).codes, keep_mask)).to(self.v)
            change = (v - self.v).abs().max()
            self.v.copy_(v)
            if change <= 1e-5 * v.abs().max():
                break

    def _sampled(
        self, values: Tensor, keep_mask: Tensor | None, seed: int
    ) -> tuple[Tensor, Tensor | None]:
        """The values, a draw of them where there are more than a basis needs, and their mask."""
        if keep_mask is not None:
            keep_mask = keep_mask.expand_as(values)
        if self.layout.dynamic or values.numel() <= CALIBRATION_VALUES:
            return values, keep_mask
        generator = torch.Generator().manual_seed(seed)
        indices = torch.randint(values.numel(), (CALIBRATION_VALUES,), generator=generator)
        indices = indices.to(values.device)
        return values.flatten()[indices], None if keep_mask is None else keep_mask.flatten()[
            indices
        ]

    def quantize(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        learning = self.training and torch.is_grad_enabled()
        with torch.no_grad():
            values = x.float()
            coded = self.encode(values)
            q = self.decode(coded).to(x.dtype)
            mask = self.gradient_mask(values, self.v) if x.requires_grad else None
            if learning:
                sums = self.normal_equations(values, coded.codes, keep_mask)
                self._sums = sums if self._sums is None else self._sums.to(sums.device) + sums
        return straight_through(x, q, mask)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        sums, self._sums = self._sums, None
        if not self.layout.dynamic and dist.is_available() and dist.is_initialized():
            if sums is None:  # a rank without a forward takes part: the others wait for it
                sums = self.v.new_zeros(*self.v.shape, self.width + 1, dtype=torch.float64)
            dist.all_reduce(sums)  # weights are the same on every rank, and so are their sums
        if sums is not None:
            self.v.copy_(self.v.double().lerp(self.solved(sums), 1 - DECAY))
