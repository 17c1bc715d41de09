"""ABC-Net: sums of binary bases, signs about shifted means (Lin et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from halut.codecs.base import Codec, Coded, Layout, codecs
from halut.codecs.planes import Planes, Steps
from halut.codecs.sign_bases import fit_bases, signs_at, solved_alpha, windows
from halut.codecs.straight_through import straight_through
from halut.configs import ABCNet
from halut.ops.power_of_two import unit_of


@codecs.register("abcnet")
class ABCNetCodec(Codec):
    """q = sum_n alpha_n (+1 or -1 by bit n of the code).

    Weights, and a bias: B_i = sign(W - mean + u_i std), sign(0) = 1, u_i = -1 + 2 (i - 1) /
    (M - 1), u = 0 for M = 1; alpha = argmin ||W - B alpha||^2, solved again in every forward, of
    every output or of all of the tensor. A value that is a level q already keeps it. The gradient
    is dL/dW = sum_m alpha_m dL/dB_m, dL/dB_m being that of the product with B_m, so
    (sum_m alpha_m) dL/dq.

    Activations: A_n = 2 [clip(x + v_n, 0, 1) >= 1/2] - 1, q = sum_n beta_n A_n; the gradient of A_n
    passes to x and v_n where 0 <= x + v_n <= 1, one wide about the threshold 1/2 - v_n, which suits
    inputs of order one, as norms make them; those far from it are read in a `unit`, a power of two
    that makes them so. beta (role basis) and v (role thresholds) are learned;
    `calibrate` starts them at a quantizer of least squared error. Levels are symmetric about zero.

    gradient=identity passes all of it, unscaled; clipped also stops weights beyond their levels.
    Scales are [R, 2, n]: alpha, and the thresholds that x is compared with; R = 1, or outputs.
    """

    Config = ABCNet
    scale_bits = 32
    binary = True
    unit: Tensor

    def __init__(self, layout: Layout, options: ABCNet | None = None) -> None:
        super().__init__(layout, options)
        N = self.width
        if not layout.dynamic:
            self.beta = nn.Parameter(torch.full((N,), 1 / N))
            self.v = nn.Parameter(0.5 - (torch.arange(1.0, N + 1) * 2 - 1 - N) / N)
            self.register_buffer("unit", torch.ones(()))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if not self.layout.dynamic:
            state_dict.setdefault(f"{prefix}unit", torch.ones(()))  # saved before there were units
        super()._load_from_state_dict(state_dict, prefix, *args)

    @classmethod
    def refuses(cls, role: str, options: ABCNet) -> str | None:
        if role == "activation" and options.per == "channel":
            return "abcnet has one basis for all inputs; choose per=tensor, or auto"
        return None

    @property
    def width(self) -> int:
        return self.options.width

    @property
    def rows(self) -> int:
        """Bases R that values of layout.shape have: one, or one for every output."""
        own = self.layout.role == "weight" and self.options.per != "tensor"
        return self.layout.shape[0] if own else 1

    def scale_count(self) -> int:
        return self.rows * self.width if self.layout.dynamic else 0

    # -- the map ----------------------------------------------------------------------------

    def scales(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        if not self.layout.dynamic:
            return torch.stack([self.beta, (0.5 - self.v) * self.unit])[None].detach()
        mask = None if keep_mask is None else keep_mask.expand_as(x).reshape(self.rows, -1)
        return solved_alpha(x.reshape(self.rows, -1), self.width, mask)

    def encode(self, x: Tensor, scales: Tensor | None = None) -> Coded:
        scales = self.scales(x) if scales is None else scales
        R, n = len(scales), self.width
        rows, thresholds = x.reshape(R, -1), scales[:, 1]
        codes = torch.zeros_like(rows, dtype=torch.int32)
        for j in range(n):
            codes = codes | ((rows >= thresholds[:, j, None]).to(torch.int32) << j)
        if self.layout.dynamic:  # codes of weights are 00..01..1, highest bits first
            values = self._decoded(codes, scales)
            for code in (2**n - 2**j for j in range(n + 1)):
                same = (rows == self._levels(scales)[:, code, None]) & (rows != values)
                codes = torch.where(same, code, codes)
        return Coded(codes.view(x.shape), scales)

    def _levels(self, scales: Tensor) -> Tensor:
        """sum_n alpha_n (+1 or -1) of every code [R, 2^n]."""
        return signs_at(scales[:, 0], torch.arange(2**self.width, device=scales.device))

    def _decoded(self, codes: Tensor, scales: Tensor) -> Tensor:
        """q [R, ..] of codes [R, ..]."""
        return self._levels(scales).gather(1, codes.long())

    def decode(self, coded: Coded) -> Tensor:
        assert coded.scales is not None
        rows = coded.codes.reshape(len(coded.scales), -1)
        return self._decoded(rows, coded.scales).view(coded.codes.shape)

    def planes(self, scales: Tensor | None) -> Planes:
        assert scales is not None
        return Planes(scales[:, 0], signed=True)

    def steps(self) -> Steps:
        thresholds, order = ((0.5 - self.v.detach()) * self.unit).sort(stable=True)
        bits = torch.cat([order.new_zeros(1), 1 << order])
        return Steps(thresholds, bits.cumsum(0).to(torch.uint8))

    def limits(self, scales: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
        """Of activations: beyond which every clip saturates."""
        assert scales is not None
        if not self.layout.dynamic:
            half = self.unit / 2
            return scales[0, 1].min() - half, scales[0, 1].max() + half
        levels = self._levels(scales)
        shape = (-1,) + (1,) * (len(self.layout.shape) - 1)
        return levels.amin(1).view(shape), levels.amax(1).view(shape)

    def restored_scales(self, packed: dict[str, Tensor]) -> Tensor | None:
        return packed["scales"][:, None]

    def packed_scales(self, scales: Tensor) -> Tensor:
        return scales[:, 0].contiguous()

    # -- learning ---------------------------------------------------------------------------

    @torch.no_grad()
    def calibrate(self, values: Tensor, *, seed: int = 0, keep_mask: Tensor | None = None) -> None:
        if self.layout.dynamic:
            return
        x = values.flatten() if keep_mask is None else values[keep_mask.expand_as(values)]
        if x.numel():
            self.unit.fill_(unit_of(float(x.abs().max())))
            beta, thresholds = fit_bases(x / self.unit, self.width, seed)
            self.beta.copy_(beta * self.unit)
            self.v.copy_(0.5 - thresholds)

    def gradient_mask(self, x: Tensor, scales: Tensor | None) -> Tensor | None:
        """What the gradient is multiplied with: sum_n alpha_n [it passes A_n]."""
        assert scales is not None
        if self.options.gradient == "identity":
            return None
        if not self.layout.dynamic:
            beta, thresholds = scales[0] / self.unit
            return windows(x / self.unit, beta, thresholds)
        gain = scales[:, 0].sum(1).view((-1,) + (1,) * (len(self.layout.shape) - 1))
        inside = super().gradient_mask(x, scales)
        return gain if inside is None else gain * inside

    def quantize(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            values = x.float()
            coded = self.encode(values, self.scales(values, keep_mask))
            q = self.decode(coded).to(x.dtype)
            mask = self.gradient_mask(values, coded.scales) if x.requires_grad else None
        if self.layout.dynamic or not torch.is_grad_enabled():
            return straight_through(x, q, None if mask is None else mask.to(x.dtype))
        q = _Learned.apply(
            q, values.detach() / self.unit, coded.codes.to(torch.uint8), self.beta, self.v
        )
        return straight_through(x, q, None if mask is None else mask.to(x.dtype))

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        return {} if self.layout.dynamic else {"basis": [self.beta], "thresholds": [self.v]}


class _Learned(torch.autograd.Function):
    """q, with gradients to beta and v: dq/dbeta_n = A_n, dq/dv_n = beta_n [0 <= x + v_n <= 1].

    x is in its unit.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, x: Tensor, codes: Tensor, beta: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(x, codes, beta, v)
        return q.view_as(q)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, codes, beta, v = ctx.saved_tensors
        gradient = gradients[0].float()
        total = gradient.sum()
        dbeta, dv = torch.empty_like(beta), torch.empty_like(v)
        for n in range(len(beta)):
            dbeta[n] = 2 * torch.where(((codes >> n) & 1) > 0, gradient, 0.0).sum() - total
            inside = (x - (0.5 - v[n])).abs() <= 0.5
            dv[n] = beta[n] * torch.where(inside, gradient, 0.0).sum()
        return None, None, None, dbeta, dv
