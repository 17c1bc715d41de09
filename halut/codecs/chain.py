"""Codecs one after the other: pruning, and a number format for what stays."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from halut.codecs.base import Codec, Coded, Layout, codecs
from halut.codecs.prune import sparse_bits, sparse_export, sparse_restore
from halut.configs import Chain, CodecConfig, codec_options
from halut.errors import HalutError


def check_members(names: list[str]) -> None:
    """Raise HalutError unless the names are codecs that prune, and then a number format."""
    if not names:
        raise HalutError("halut.codecs must name a codec at least, such as [prune,integer]")
    selecting = [getattr(codecs[name], "selects", False) for name in names]
    if "chain" in names or not all(selecting[:-1]) or (selecting[-1] and len(names) > 1):
        formats = [n for n, k in codecs.items() if n != "chain" and not getattr(k, "selects", 0)]
        raise HalutError(
            f"halut.codecs must be prune and then one of {', '.join(formats)}; got {names}"
        )


def member_config(name: str, config: Any) -> CodecConfig:
    """The configuration of one member; what the chain leaves open has the member's default."""
    kind = codecs[name].Config
    options = {key: getattr(config, key, None) for key in codec_options(kind)}
    return kind(name=name, **{key: value for key, value in options.items() if value is not None})


@codecs.register("chain")
class ChainCodec(Codec):
    """What pruning leaves, in a number format; what it has set to zero stays zero.

    Scales are those of the values that stay. The gradient passes where every member lets it pass.
    """

    Config = Chain

    def __init__(self, layout: Layout, options: Chain | None = None) -> None:
        super().__init__(layout, options)
        members = [codecs[n](layout, member_config(n, self.options)) for n in self.options.codecs]
        self.selectors = nn.ModuleList(members[:-1])
        self.format = members[-1]
        self.signed = self.format.signed  # type: ignore[misc]
        self.scale_bits = self.format.scale_bits  # type: ignore[misc]

    @classmethod
    def settled(cls, config: Any) -> Any:
        """With the defaults of its members where the chain leaves an option open."""
        check_members(config.codecs)
        config = copy.copy(config)
        for name in config.codecs:
            member = member_config(name, config)
            for key in codec_options(type(member)):
                if getattr(config, key, None) is None:
                    setattr(config, key, getattr(member, key))
        return config

    @classmethod
    def refuses(cls, role: str, options: Any) -> str | None:
        reasons = (codecs[n].refuses(role, member_config(n, options)) for n in options.codecs)
        return next((reason for reason in reasons if reason), None)

    @classmethod
    def shared_with(cls, role: str, options: Any) -> str | None:
        check_members(options.codecs)
        members = [name for name in options.codecs if role in codecs[name].shared]
        return None if not members else members[0] if len(members) == 1 else "chain"

    @property
    def width(self) -> int:
        return self.format.width

    @property
    def number(self) -> str:
        return self.format.number

    @property
    def mask(self) -> Tensor | None:
        """Where all selectors keep values; None: there is none."""
        masks: list[Tensor] = [selector.mask for selector in self.selectors]  # type: ignore[misc]
        return functools.reduce(torch.logical_and, masks) if masks else None

    def pruned(self, x: Tensor) -> Tensor:
        """x, zero where a selector says so."""
        mask = self.mask
        return x if mask is None else torch.where(mask, x, 0.0)

    def calibrate(self, values: Tensor, *, seed: int = 0, keep_mask: Tensor | None = None) -> None:
        for selector in self.selectors:
            selector.calibrate(self.pruned(values), seed=seed)  # type: ignore[operator]
        self.format.calibrate(self.pruned(values), seed=seed, keep_mask=self.mask)

    def scales(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor | None:
        return self.format.scales(self.pruned(x), self.mask)

    def encode(self, x: Tensor, scales: Tensor | None = None) -> Coded:
        scales = self.scales(x) if scales is None else scales
        return self.format.encode(self.pruned(x), scales)

    def decode(self, coded: Coded) -> Tensor:
        return self.pruned(self.format.decode(coded))

    def fake_quantize(self, x: Tensor, scales: Tensor | None = None) -> Tensor:
        scales = self.scales(x) if scales is None else scales
        return self.pruned(self.format.fake_quantize(self.pruned(x), scales))

    def limits(self, scales: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
        return self.format.limits(scales)

    def gradient_mask(self, x: Tensor, scales: Tensor | None) -> Tensor | None:
        inside, mask = self.format.gradient_mask(x, scales), self.mask
        if mask is None or inside is None:
            return inside if mask is None else mask.expand_as(x)
        return inside * mask

    def quantize(self, x: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        mask = self.mask
        if mask is None:
            return self.format.quantize(x, keep_mask)
        return torch.where(mask, self.format.quantize(torch.where(mask, x, 0.0), mask), 0.0)

    def after_step(self, progress: float) -> None:
        self.format.after_step(progress)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        return self.format.param_groups()

    def scale_count(self) -> int:
        return self.format.scale_count()

    def formula_bits(self) -> float:
        return self.format.formula_bits()

    def bits(self) -> int:
        mask = self.mask
        if mask is None:
            return self.format.bits()
        return sparse_bits(self, mask) + self.scale_count() * self.scale_bits

    def export(self, x: Tensor) -> dict[str, Tensor]:
        """As the format's, of the values that stay, and `mask`."""
        packed = self.format.export(self.pruned(x))
        mask = self.mask
        if mask is None:
            return packed
        return {**packed, **sparse_export(self, self.encode(x.detach().float()).codes, mask)}

    def restore(self, packed: dict[str, Tensor]) -> Tensor:
        codes, mask = sparse_restore(self, packed)
        values = self.format.decode(Coded(codes, self.format.restored_scales(packed)))
        return torch.where(mask, values, 0.0)
