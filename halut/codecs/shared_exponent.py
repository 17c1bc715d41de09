"""Codecs of numbers x = element * 2^exponent, the exponent shared by a tensor, channel or block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.codecs.base import Codec, Coded, Layout
from halut.codecs.powers import HIGHEST, LOWEST, times_power
from halut.configs import CodecConfig


class SharedExponentCodec(Codec):
    """x = element * 2^S, S shared by a tensor, an output channel, an input channel or a block.

    Subclasses define the elements: `exponent_of` (S for a largest magnitude), `encode_elements`,
    `decode_elements` and `element_limits`. S of a weight, and of every block, is computed from the
    values; S of activations per tensor or per channel (here: input channel) is calibrated, in the
    buffer `exponent`: a float, rounded when it is read, so that weights can be averaged anyhow.
    """

    exponent: Tensor
    scale_bits = 8
    whole_block = 1
    """Values of a whole block where no option says it."""

    def __init__(self, layout: Layout, options: CodecConfig | None = None) -> None:
        super().__init__(layout, options)
        if not layout.dynamic and self.per != "block" and self.fixed_exponent() is None:
            per_channel = self.per == "channel"
            shape = layout.shape if per_channel else (1,) * len(layout.shape)
            self.register_buffer("exponent", torch.zeros(shape))

    # -- elements (subclasses) --------------------------------------------------------------

    def fixed_exponent(self) -> int | None:
        """S, where the options say it."""
        return None

    def exponent_of(self, largest: Tensor) -> Tensor:
        """S int32 for values of magnitudes up to `largest` >= 0."""
        raise NotImplementedError

    def encode_elements(self, elements: Tensor) -> Tensor:
        """Codes int32 of x 2^-S."""
        raise NotImplementedError

    def decode_elements(self, codes: Tensor) -> Tensor:
        """Elements float32 of codes."""
        raise NotImplementedError

    def element_limits(self) -> tuple[float, float]:
        """The lowest and the highest element."""
        raise NotImplementedError

    # -- granularity ------------------------------------------------------------------------

    @property
    def per(self) -> str:
        """tensor, channel or block."""
        per = getattr(self.options, "per", "block")
        if per == "auto":
            return "channel" if self.layout.role == "weight" else "tensor"
        return per

    @property
    def block(self) -> int:
        """Values of a whole block: no more than there are inputs."""
        return min(getattr(self.options, "block", 0), self.layout.shape[-1])

    def scale_count(self) -> int:
        if self.fixed_exponent() is not None:
            return 0
        if self.per == "block":
            rows = self.layout.numel // self.layout.shape[-1]
            return rows * -(-self.layout.shape[-1] // self.block)
        if not self.layout.dynamic:
            return 0
        return self.layout.shape[0] if self.per == "channel" else 1

    def formula_bits(self) -> float:
        """Bits of one value of a whole block, its share of the exponent with it."""
        whole = getattr(self.options, "block", self.whole_block)
        blocks = self.per == "block" and self.fixed_exponent() is None
        return self.width + (self.scale_bits / whole if blocks else 0)

    def largest(self, x: Tensor) -> Tensor:
        """The largest magnitude of everything that shares an exponent."""
        a = x.abs()
        if self.per == "block":
            blocks = F.pad(a, (0, -a.shape[-1] % self.block)).unflatten(-1, (-1, self.block))
            return blocks.amax(-1)
        if self.per == "channel" and self.layout.dynamic:
            return a.amax(tuple(range(1, a.ndim)), keepdim=True)
        if self.per == "channel":
            return a.flatten(0, -3).amax(0) if a.ndim > 2 else a
        return a.amax().reshape((1,) * len(self.layout.shape))

    # -- the map ----------------------------------------------------------------------------

    def calibrate(self, values: Tensor, *, seed: int = 0, keep_mask: Tensor | None = None) -> None:
        if hasattr(self, "exponent"):
            self.exponent.copy_(self.computed(values))

    def computed(self, x: Tensor) -> Tensor:
        """S int32 that values x ask for."""
        return self.exponent_of(self.largest(x)).clamp(LOWEST, HIGHEST)

    def scales(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        """S int32: one number, [M, 1, 1], [groups, C] or [.., blocks]."""
        fixed = self.fixed_exponent()
        if fixed is not None:
            shape = (1,) * len(self.layout.shape)
            return torch.full(shape, fixed, dtype=torch.int32, device=x.device)
        if hasattr(self, "exponent"):
            return self.exponent.round().to(torch.int32)
        return self.computed(x)

    def spread(self, scales: Tensor) -> Tensor:
        """S as it broadcasts against the values."""
        if self.per != "block" or self.fixed_exponent() is not None:
            return scales
        every = scales[..., None].expand(*scales.shape, self.block).flatten(-2)
        return every[..., : self.layout.shape[-1]]

    def encode(self, x: Tensor, scales: Tensor | None = None) -> Coded:
        scales = self.scales(x) if scales is None else scales
        return Coded(self.encode_elements(times_power(x, -self.spread(scales))), scales)

    def decode(self, coded: Coded) -> Tensor:
        assert coded.scales is not None
        return times_power(self.decode_elements(coded.codes), self.spread(coded.scales))

    def limits(self, scales: Tensor | None) -> tuple[Tensor, Tensor]:
        assert scales is not None
        low, high = self.element_limits()
        S = self.spread(scales)
        one = torch.ones((), device=S.device)
        return times_power(one * low, S), times_power(one * high, S)

    def packed_scales(self, scales: Tensor) -> Tensor:
        return scales.to(torch.int8)

    def unpacked_scales(self, packed: Tensor) -> Tensor:
        return packed.to(torch.int32)
