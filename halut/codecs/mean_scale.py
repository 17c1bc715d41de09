"""Codecs of one bit times the mean magnitude of a tensor or a channel."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from halut.codecs.base import Codec, Coded, Layout
from halut.codecs.planes import Planes, Steps, just_above
from halut.configs import CodecConfig

logger = logging.getLogger(__name__)


class MeanScaleCodec(Codec):
    """alpha * level: alpha = mean abs x, computed from weights, calibrated for activations.

    Pruned values have no part in the mean. Subclasses say by `levels` what the codes 0 and 1 are,
    and by `ones` which values have 1.
    """

    alpha: Tensor
    scale_bits = 32
    binary = True
    levels: tuple[float, float]

    def __init__(self, layout: Layout, options: CodecConfig | None = None) -> None:
        super().__init__(layout, options)
        if not layout.dynamic and self.has_scale:
            shape = layout.shape if self.per == "channel" else (1,) * len(layout.shape)
            self.register_buffer("alpha", torch.ones(shape))

    @property
    def has_scale(self) -> bool:
        """False where alpha is 1 by definition."""
        return True

    @property
    def per(self) -> str:
        """tensor or channel."""
        per = self.options.per
        if per == "auto":
            return "channel" if self.layout.role == "weight" else "tensor"
        return per

    @property
    def width(self) -> int:
        return 1

    def scale_count(self) -> int:
        if not self.layout.dynamic or not self.has_scale:
            return 0
        return self.layout.shape[0] if self.per == "channel" else 1

    def computed(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        """alpha of values x."""
        over: tuple[int, ...] = tuple(range(x.ndim))
        if self.per == "channel":
            over = over[1:] if self.layout.dynamic else over[: -len(self.layout.shape)]
        a = x.abs()
        if keep_mask is None:
            mean = a.mean(over, keepdim=True)
        else:
            count = keep_mask.expand_as(a).to(a.dtype).sum(over, keepdim=True)
            mean = torch.where(keep_mask, a, 0.0).sum(over, keepdim=True) / count.clamp_min(1)
        return mean.reshape(mean.shape[mean.ndim - len(self.layout.shape) :])

    def calibrate(self, values: Tensor, *, seed: int = 0, keep_mask: Tensor | None = None) -> None:
        if hasattr(self, "alpha"):
            self.alpha.copy_(self.computed(values, keep_mask))
        if self.levels[0] < 0 and not self.layout.dynamic and bool((values >= 0).all()):
            logger.warning(
                "no calibrated input is negative: their signs say nothing; use "
                "halut.activation.name=binary halut.activation.unsigned=true, or null"
            )

    def scales(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor | None:
        if not self.has_scale:
            return None
        return self.alpha if hasattr(self, "alpha") else self.computed(x, keep_mask)

    def ones(self, x: Tensor) -> Tensor:
        """Which values have the code 1."""
        raise NotImplementedError

    def encode(self, x: Tensor, scales: Tensor | None = None) -> Coded:
        return Coded(self.ones(x).to(torch.int32), self.scales(x) if scales is None else scales)

    def decode(self, coded: Coded) -> Tensor:
        low, high = self.levels
        values = torch.where(coded.codes > 0, high, low)
        return values if coded.scales is None else values * coded.scales

    def planes(self, scales: Tensor | None) -> Planes | None:
        alpha = torch.ones(1) if scales is None else scales.reshape(-1)
        if not self.layout.dynamic and len(alpha) > 1:
            return None  # a scale for every input is no factor of a plane
        return Planes(alpha[:, None], self.levels[0] < 0)

    def steps(self) -> Steps:
        zero = torch.zeros(1)
        table = torch.tensor([0, 1], dtype=torch.uint8)
        return Steps(zero if bool(self.ones(zero)) else just_above(zero), table)

    def limits(self, scales: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
        low, high = self.levels
        return (low, high) if scales is None else (low * scales, high * scales)
