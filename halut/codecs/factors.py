"""What a configuration says about weight, activation and bias of one operator, and what follows."""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any

from halut.codecs.base import Codec, Layout, codecs
from halut.errors import HalutError
from halut.option import option

SAME = "same"
FACTORS = ("weight", "activation", "bias")

Spec = dict[str, Any]
"""A codec's name and its options, plain values: how plans hold it. None: float."""


def factor_options() -> type:
    """The schema of halut.weight, halut.activation and halut.bias: a name and every codec's
    options, null where the operator's own, or the codec's default, is meant."""
    return _factor_options(tuple(codecs))


@functools.cache
def _factor_options(names: tuple[str, ...]) -> type:
    name = option(SAME, "a codec; same: the operator's; null: float")
    fields: list[Any] = [("name", str | None, name)]
    fields += union_fields(names)
    return dataclasses.make_dataclass("FactorOptions", fields)


def union_fields(names: tuple[str, ...]) -> list[Any]:
    """Fields of all options of the named codecs, optional, for make_dataclass.

    Raises HalutError where two codecs mean different types by one name.
    """
    hints: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for name in names:
        kind = codecs[name].options_type()
        for key, hint in typing.get_type_hints(kind).items():
            optional: Any = hint | None
            if hints.setdefault(key, optional) != optional:
                raise HalutError(f"codec {name!r}: option {key} has another type elsewhere")
        about.update({f.name: f.metadata for f in dataclasses.fields(kind) if f.name not in about})
    # What an option needs depends on the codec: its operator asks.
    told = {key: {"help": metadata.get("help", "")} for key, metadata in about.items()}
    return [
        (key, hint, dataclasses.field(default=None, metadata=told[key]))
        for key, hint in hints.items()
    ]


def resolve_factor(role: str, codec: str, options: Any) -> Spec | None:
    """The codec of one factor of the operator `codec`, checked; None: it stays float.

    An option is the factor's own if that is given, else the operator's of the same name, else the
    codec's default. Raises HalutError on an unknown name, or options that cannot work.
    """
    factor = getattr(options, role)
    if factor is None or factor.name in (None, "none"):
        return None
    given = {f.name: getattr(factor, f.name) for f in dataclasses.fields(factor)}
    name = given.pop("name")
    if name == SAME:
        shared = codecs[codec].shared_with(role, options)
        if shared is None:
            return None
        name = shared
    kind = codecs[name].options_type()
    own = {f.name for f in dataclasses.fields(kind)}
    for key, value in given.items():
        if value is not None and key not in own:
            raise HalutError(f"halut.{role}: {name} has no option {key}; choose from: {_list(own)}")
    inherited = {key: getattr(options, key) for key in own if hasattr(options, key)}
    chosen = {key: value for key, value in given.items() if key in own and value is not None}
    try:
        settled = kind(**{**inherited, **chosen})
    except HalutError as error:
        raise HalutError(f"{error} (halut.{role})") from error
    refused = codecs[name].refuses(role, settled)
    if refused:
        raise HalutError(f"halut.{role}: {refused}")
    plain = {k: v for k, v in dataclasses.asdict(settled).items() if v is not None}
    return {"name": name, **plain}


def make_codec(spec: Spec | None, layout: Layout) -> Codec | None:
    """The codec that a spec describes, for values of that layout."""
    if spec is None:
        return None
    kind = codecs[spec["name"]]
    options = {key: value for key, value in spec.items() if key != "name"}
    return kind(layout, kind.options_type()(**options))


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))
