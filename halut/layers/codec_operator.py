"""The operator of the codec family: one for every registered codec."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from torch import nn

from halut.codecs import codecs
from halut.codecs.contraction import AUTO, contractions, resolve_contraction
from halut.codecs.factors import FACTORS, Spec, factor_options, resolve_factor
from halut.layers.codec import CodecConv2d, CodecLinear
from halut.layers.codec_attention import FORMATS, CodecAttention
from halut.option import option
from halut.sites.attention import KIND
from halut.sites.find import Site
from halut.sites.operator import Operator


class CodecOperator(Operator):
    """Quantize weight and activations, multiply. `codec` is set by `codec_operator`."""

    codec: str

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chosen = self.options
        self.specs: dict[str, Spec | None] = {
            role: resolve_factor(role, self.codec, chosen) for role in FACTORS
        }
        self.contraction = resolve_contraction(
            chosen.contraction, self.specs["weight"], self.specs["activation"]
        )

    @classmethod
    def about(cls) -> str:
        return (codecs[cls.codec].__doc__ or "").split("\n")[0]

    def supports(self, site: Site) -> str | None:
        spec = self.specs["activation"]
        if site.kind != KIND or (spec is not None and spec["name"] in FORMATS):
            return None
        found = "float" if spec is None else spec["name"]
        return f"attention's factors need halut.activation of {', '.join(FORMATS)}; it is {found}"

    def without_effect(self, path: str) -> str | None:
        """As the base class; halut.X is read by the factors that leave X open and whose codec has
        it, where nothing else of that codec makes it moot."""
        first, _, own = path.partition(".")
        if first in FACTORS:
            return self._unread(first, own) if own not in ("", "name") else None
        if first in ("contraction", "codecs"):
            return None
        open_to = [r for r in FACTORS if getattr(getattr(self.options, r), first, None) is None]
        reasons = [self._unread(role, first) for role in open_to]
        if not reasons:
            return f"weight, activation and bias have their own {first}"
        return None if None in reasons else "; ".join(filter(None, dict.fromkeys(reasons)))

    def _unread(self, role: str, key: str) -> str | None:
        """Why the codec of a factor does not read its option `key`; None: it does."""
        spec = self.specs[role]
        if spec is None:
            return f"halut.{role} is float"
        kind = codecs[spec["name"]].options_type()
        fields = {f.name: f for f in dataclasses.fields(kind)}
        if key not in fields:
            return f"the {role} is {spec['name']}, which has no {key}"
        needs = fields[key].metadata.get("needs")
        settled = kind(**{k: v for k, v in spec.items() if k != "name"})
        reason = needs(settled, None) if needs is not None else None
        return reason if reason is None else f"halut.{role}: {reason}"

    def check(self, site: Site) -> None:
        contractions[self.contraction].check(site)

    def frozen(self, site: Site) -> dict[str, Any]:
        """The codecs of weight, activation and bias with all of their options."""
        if site.kind == KIND:  # no weight, no bias
            return {"weight": None, "bias": None, "activation": self.specs["activation"]}
        return {**self.specs, "contraction": self.contraction}

    def summary(self, site: Site) -> dict[str, Any]:
        return {role: told(spec) for role, spec in self.specs.items() if spec or role != "bias"}

    def build(self, site: Site, source: nn.Module | None = None) -> nn.Module:
        if site.kind == KIND:
            assert self.specs["activation"] is not None
            return CodecAttention(site, self.specs["activation"], source)
        self.check(site)
        kind = CodecLinear if site.geometry is None else CodecConv2d
        return kind(site, self.specs, self.contraction, source)


def told(spec: Spec | None) -> str:
    """A codec in a few words: its name and what is not its default."""
    if spec is None:
        return "float"
    defaults = dataclasses.asdict(codecs[spec["name"]].options_type()())
    options = {k: v for k, v in spec.items() if k != "name"}
    shown = [f"{k}={v}" for k, v in options.items() if k == "width" or v != defaults[k]]
    return f"{spec['name']}({', '.join(shown)})" if shown else spec["name"]


def codec_operator(codec: str) -> type[CodecOperator]:
    """The operator class of one codec."""
    return _codec_operator(codec, factor_options())


@functools.cache
def _codec_operator(codec: str, factor: type) -> type[CodecOperator]:
    name = codec.title().replace("_", "")
    own = codecs[codec].options_type()
    optional: Any = factor | None
    text = "codec of the {}: its name and options, where they differ; null: float"
    made: dict[str, Any] = dict.fromkeys(("weight", "activation"), factor)
    made["bias"] = functools.partial(factor, name=None)
    fields: list[Any] = [
        (role, optional, dataclasses.field(default_factory=make, metadata={"help": told_of}))
        for role, make in made.items()
        if (told_of := text.format(role))
    ]
    choices = (AUTO, *contractions)
    fields.append(("contraction", str, option(AUTO, "how codes are multiplied", choices=choices)))
    kind = dataclasses.make_dataclass(f"{name}CodecOptions", fields, bases=(own,))
    return type(f"{codec}_operator", (CodecOperator,), {"codec": codec, "Options": kind})
