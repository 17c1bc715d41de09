"""Number formats of one operator's weight, activation and bias, resolved from options."""

from __future__ import annotations

from typing import Any

from halut.codecs.base import Codec, Layout, codecs
from halut.configs import Chain, CodecConfig, FactorConfig, codec_options, field_types, from_options
from halut.configs.codecs import SAME, check_factor, factor_options
from halut.errors import HalutError

QuantSpec = dict[str, Any]
"""A codec's name and its options, plain values: how plans hold it. None: float."""


def option_types(*classes: type) -> dict[str, Any]:
    """Types of the options that registered codecs have and the dataclasses `classes` do not.

    Optional, as what is None is the codec's default. Raises HalutError where two codecs mean
    different types by one name.
    """
    hints: dict[str, Any] = {}
    for name, codec in codecs.items():
        if not (isinstance(codec, type) and issubclass(codec, Codec)):
            raise HalutError(f"codec {name!r} is no subclass of halut.codecs.Codec: {codec!r}")
        if not (isinstance(codec.Config, type) and issubclass(codec.Config, CodecConfig)):
            raise HalutError(
                f"codec {name!r}: Config must be a dataclass, a subclass of halut.CodecConfig, "
                f"got {codec.Config!r}"
            )
        config: Any = codec.Config
        types = field_types(config)
        for key in codec_options(config):
            optional: Any = types[key] | None
            if hints.setdefault(key, optional) != optional:
                raise HalutError(f"codec {name!r}: option {key} has another type elsewhere")
    there = {key for kind in classes for key in field_types(kind)}
    return {key: hint for key, hint in hints.items() if key not in there}


def resolve_factor(role: str, config: CodecConfig) -> QuantSpec | None:
    """The codec of one factor of an operator, checked; None: it stays float.

    An option is the factor's own if that is given, else the operator's of the same name, else the
    codec's default. Raises HalutError on an unknown name, or options that cannot work.
    """
    options = factor_options(getattr(config, role))
    check_factor(role, options, extra_types(FactorConfig))
    name = options.pop("name")
    if name in (None, "none"):
        return None
    if name == SAME:
        name = codecs[config.name].shared_with(role, config)
        if name is None:
            return None
    kind = codecs[name].Config
    known = option_names(kind)
    own = {key: value for key, value in options.items() if value is not None}
    for key in own:
        if key not in known:
            choices = ", ".join(sorted(known))
            raise HalutError(f"halut.{role}: {name} has no option {key}; choose from: {choices}")
    shared = {key: getattr(config, key, None) for key in known}
    values = {**{key: value for key, value in shared.items() if value is not None}, **own}
    try:
        settled = codecs[name].settled(config_of({"name": name, **values}))
    except HalutError as error:
        raise HalutError(f"{error} (halut.{role})") from error
    refused = codecs[name].refuses(role, settled)
    if refused:
        raise HalutError(f"halut.{role}: {refused}")
    plain = {key: getattr(settled, key, None) for key in known}
    return {"name": name, **{key: value for key, value in plain.items() if value is not None}}


def make_codec(spec: QuantSpec | None, layout: Layout) -> Codec | None:
    """The codec that a spec describes, for values of that layout."""
    return None if spec is None else codecs[spec["name"]](layout, config_of(spec))


def config_of(spec: QuantSpec) -> CodecConfig:
    """The configuration that a spec describes."""
    kind = codecs[spec["name"]].Config
    return from_options(kind, spec, extra_types(kind))


def option_names(kind: type[CodecConfig]) -> list[str]:
    """Options of a codec of that configuration; of a chain, those of every codec."""
    return [*codec_options(kind), *extra_types(kind)]


def extra_types(kind: Any) -> dict[str, Any]:
    """Options of plugins' codecs, beside the fields of a class in which any codec can be named."""
    named = isinstance(kind, type) and issubclass(kind, Chain | FactorConfig)
    return option_types(kind) if named else {}
