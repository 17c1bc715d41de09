"""Base class of codecs: values to integer codes and scales, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from halut.codecs.packing import pack, unpack
from halut.codecs.planes import Planes, Steps
from halut.codecs.straight_through import straight_through
from halut.configs import FACTORS, CodecConfig
from halut.option import choice
from halut.registry import Registry

codecs: Registry[type[Codec]] = Registry("codec")


@dataclass(frozen=True)
class Layout:
    """What a codec's values are, and the shape of their last dimensions.

    weight [M, taps, C]: outputs, kernel positions (1 for a Linear), inputs of one group.
    activation [..., groups, C]: any number of rows before. bias [1, M].
    The last dimension is the input axis, along which blocks lie: those of a weight and of the
    activations it meets are the same inputs.
    """

    role: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        choice("role", self.role, FACTORS)

    @property
    def dynamic(self) -> bool:
        """True if scales follow the values at hand, as there is one tensor only; else they are
        calibrated once, on samples."""
        return self.role != "activation"

    @property
    def numel(self) -> int:
        """Values of `shape`."""
        return math.prod(self.shape)


@dataclass
class Coded:
    """Codes int32, of the values' shape, and the scales (or None) that decode them."""

    codes: Tensor
    scales: Tensor | None = None


class Codec(nn.Module):
    """Maps values to a coarser set: `encode` to integer codes and scales, `decode` back.

    `quantize` = decode(encode(x)) is what training and the reference product see; its gradient is
    the straight-through one. All state lives in parameters and buffers whose shapes depend on
    (layout, options) alone, so that a codec built empty can be loaded from a state dict.
    """

    Config: ClassVar[type[CodecConfig]] = CodecConfig
    """Its options; without any of its own, those that every codec has."""
    shared: ClassVar[tuple[str, ...]] = ("weight", "activation")
    """What halut=NAME applies to, unless halut.weight or halut.activation say otherwise."""
    signed: ClassVar[bool] = False
    """True if codes are two's complement, in [-2^(width-1), 2^(width-1)); else [0, 2^width)."""
    scale_bits: ClassVar[int] = 0
    """Bits of one scale as inference holds it."""
    binary: ClassVar[bool] = False
    """True if `planes` tells of bit planes."""
    arithmetic: ClassVar[str] = "int"
    """What multiplies values on hardware that has them: "int", "fp", or "log", which adds."""

    def __init__(self, layout: Layout, options: Any = None) -> None:
        super().__init__()
        self.layout = layout
        self.options: Any = self.settled(options if options is not None else self.Config())

    @classmethod
    def settled(cls, config: Any) -> Any:
        """The configuration with what its other options decide; itself, of most codecs."""
        return config

    @classmethod
    def refuses(cls, role: str, options: Any) -> str | None:
        """Why it cannot quantize a factor with these options, or None if it can."""
        return None

    @classmethod
    def shared_with(cls, role: str, options: Any) -> str | None:
        """The codec that halut=NAME with these options means for a factor; None: float."""
        return next(
            (name for name, kind in codecs.items() if kind is cls and role in cls.shared), None
        )

    # -- the map ----------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Bits of a code."""
        raise NotImplementedError

    @property
    def number(self) -> str:
        """`arithmetic`, of a codec made of others that of the one whose codes they are."""
        return self.arithmetic

    def scales(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor | None:
        """The scales of values x, broadcasting against them: computed or calibrated.

        `keep_mask` masks values that pruning has not set to zero.
        """
        return None

    def encode(self, x: Tensor, scales: Tensor | None = None) -> Coded:
        """Codes of x [.., *layout.shape]; `scales` None: those that x has."""
        raise NotImplementedError

    def decode(self, coded: Coded) -> Tensor:
        """float32 values of codes."""
        raise NotImplementedError

    def fake_quantize(self, x: Tensor, scales: Tensor | None = None) -> Tensor:
        """decode(encode(x)), float32; overridden where there is a shorter way to the same bits."""
        return self.decode(self.encode(x, scales))

    def limits(self, scales: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
        """The lowest and the highest value there is, broadcasting against the values."""
        raise NotImplementedError

    def planes(self, scales: Tensor | None) -> Planes | None:
        """The values as bit planes of the codes; None: they are no sum of such."""
        return None

    def steps(self) -> Steps | None:
        """The codes of activations as steps, the same as `encode` gives; None: encode."""
        return None

    # -- training ---------------------------------------------------------------------------

    def calibrate(self, values: Tensor, *, seed: int = 0, keep_mask: Tensor | None = None) -> None:
        """Learn scales and the like from values [.., *layout.shape] float32: the weight, or
        samples of inputs.

        `seed` decides what is drawn at random; `keep_mask` as for `scales`.
        """

    def gradient_mask(self, x: Tensor, scales: Tensor | None) -> Tensor | None:
        """Where the gradient passes, bool, or by what it is multiplied; None: everywhere, as it is.

        Broadcasts against x.
        """
        if not self.clips:
            return None
        low, high = self.limits(scales)
        return (x >= low) & (x <= high)

    @property
    def clips(self) -> bool:
        """True if the gradient is zero where values saturate."""
        gradient = self.options.gradient
        return gradient == "clipped" or (gradient == "auto" and self.layout.role == "activation")

    def quantize(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        """decode(encode(x)) in x's dtype, with the straight-through gradient.

        `keep_mask` as for `scales`.
        """
        with torch.no_grad():
            values = x.float()
            scales = self.scales(values, keep_mask)
            q = self.fake_quantize(values, scales).to(x.dtype)
            mask = self.gradient_mask(values, scales) if x.requires_grad else None
        return straight_through(x, q, mask)

    def after_step(self, progress: float) -> None:
        """Called after every optimizer step; `progress` in 0..1 is the share of the stage done."""

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by optimizer role (basis, ...)."""
        return {}

    # -- storage ----------------------------------------------------------------------------

    def scale_count(self) -> int:
        """Scales that values of layout.shape bring with them; calibrated ones are state."""
        return 0

    def bits(self) -> int:
        """Bits of values of layout.shape, shared scales counted."""
        return self.layout.numel * self.width + self.scale_count() * self.scale_bits

    def formula_bits(self) -> float:
        """Bits of one value as the format is quoted: whole blocks, nothing pruned."""
        return self.width

    def export(self, x: Tensor) -> dict[str, Tensor]:
        """x [*layout.shape] as inference holds it: `codes` packed to bytes, and `scales`."""
        coded = self.encode(x.detach().float())
        packed = {"codes": pack(coded.codes, self.width)}
        if coded.scales is not None and self.scale_count():
            packed["scales"] = self.packed_scales(coded.scales)
        return packed

    def restore(self, packed: dict[str, Tensor]) -> Tensor:
        """The values float32 [*layout.shape] of what `export` made."""
        codes = unpack(packed["codes"], self.width, self.layout.numel, self.signed)
        return self.decode(Coded(codes.view(self.layout.shape), self.restored_scales(packed)))

    def restored_scales(self, packed: dict[str, Tensor]) -> Tensor | None:
        """The scales of what `export` made: those it holds, or those the options say."""
        if "scales" in packed:
            return self.unpacked_scales(packed["scales"])
        return self.scales(torch.zeros(self.layout.shape, device=packed["codes"].device))

    def packed_scales(self, scales: Tensor) -> Tensor:
        """Scales in `scale_bits` bits each."""
        return scales

    def unpacked_scales(self, packed: Tensor) -> Tensor:
        """Inverse of packed_scales."""
        return packed

    def extra_repr(self) -> str:
        return f"{self.layout.role}, {self.width} bits"
