"""The operator of the codec family: quantize weight and activations, multiply."""

from __future__ import annotations

from typing import Any

from torch import nn

from halut.codecs import codecs
from halut.codecs.contraction import contractions, resolve_contraction
from halut.codecs.factors import QuantSpec, config_of, option_names, resolve_factor
from halut.configs import FACTORS, CodecConfig, codec_options
from halut.configs.codecs import factor_options
from halut.layers.codec import CodecConv2d, CodecLayer, CodecLinear
from halut.layers.codec_attention import FORMATS, CodecAttention
from halut.sites.attention import KIND
from halut.sites.find import Site
from halut.sites.operator import Operator, ReplacedLayer


class CodecOperator(Operator):
    """Builds the CodecLayer of a site; the configuration's name is that of a codec."""

    config: CodecConfig

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        self.specs = {role: resolve_factor(role, config) for role in FACTORS}
        self.contraction = resolve_contraction(
            config.contraction, self.specs["weight"], self.specs["activation"]
        )

    def supports(self, site: Site) -> str | None:
        spec = self.specs["activation"]
        if site.kind != KIND or (spec is not None and spec["name"] in FORMATS):
            return None
        codec = "float" if spec is None else spec["name"]
        return f"attention's factors need halut.activation of {', '.join(FORMATS)}; it is {codec}"

    def without_effect(self, path: str) -> str | None:
        """As the base class; halut.X is read by the factors that leave X open and whose codec has
        it, where nothing else of that codec makes it moot."""
        first, _, own = path.partition(".")
        if first in FACTORS:
            return self._unread(first, own) if own not in ("", "name") else None
        if first in ("contraction", "codecs"):
            return None
        factors = {role: factor_options(getattr(self.config, role)) for role in FACTORS}
        open_to = [role for role, options in factors.items() if options.get(first) is None]
        reasons = [self._unread(role, first) for role in open_to]
        if not reasons:
            return f"weight, activation and bias have their own {first}"
        return None if None in reasons else "; ".join(filter(None, dict.fromkeys(reasons)))

    def _unread(self, role: str, key: str) -> str | None:
        """Why the codec of a factor does not read its option `key`; None: it does."""
        spec = self.specs[role]
        if spec is None:
            return f"halut.{role} is float"
        config = config_of(spec)
        if key not in option_names(type(config)):
            return f"the {role} is {spec['name']}, which has no {key}"
        field = codec_options(type(config)).get(key)
        needs = field.metadata.get("needs") if field is not None else None
        reason = needs(config, None) if needs is not None else None
        return reason if reason is None else f"halut.{role}: {reason}"

    def check(self, site: Site) -> None:
        contractions[self.contraction].check(site)

    def plan_options(self, site: Site) -> dict[str, Any]:
        """The codecs of weight, activation and bias with all of their options."""
        if site.kind == KIND:  # no weight, no bias
            return {"weight": None, "bias": None, "activation": self.specs["activation"]}
        return {**self.specs, "contraction": self.contraction}

    def summary(self, site: Site) -> dict[str, Any]:
        return {role: describe(spec) for role, spec in self.specs.items() if spec or role != "bias"}

    def build(self, site: Site, source: nn.Module | None = None) -> ReplacedLayer:
        if site.kind == KIND:
            assert self.specs["activation"] is not None
            return CodecAttention(site, self.specs["activation"], source)
        self.check(site)
        kind: type[CodecLayer] = CodecLinear if site.geometry is None else CodecConv2d
        return kind(site, self.specs, self.contraction, source)


def describe(spec: QuantSpec | None) -> str:
    """A codec in a few words: its name and what is not its default."""
    if spec is None:
        return "float"
    defaults = codecs[spec["name"]].settled(codecs[spec["name"]].Config())
    options = {key: value for key, value in spec.items() if key != "name"}
    parts = [
        f"{key}={value}"
        for key, value in options.items()
        if key == "width" or value != getattr(defaults, key, None)
    ]
    return f"{spec['name']}({', '.join(parts)})" if parts else spec["name"]
