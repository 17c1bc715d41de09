"""Base class of operator configurations, and their construction from plain values."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from halut.errors import HalutError
from halut.option import new_name

C = TypeVar("C", bound="Config")
Kind = TypeVar("Kind", bound=type)


def documented(kind: Kind) -> Kind:
    """Decorator of a dataclass: its docstring gets an Args section of the options' own texts.

    `help(halut.Tree)` and `python train.py --help halut=tree` thus tell the same.
    """
    lines = []
    for field in dataclasses.fields(kind):
        text = field.metadata.get("help", "")
        if not text:
            continue
        if choices := field.metadata["choices"]:
            text += f" ({', '.join(choices)})"
        for yaml, python in (("null", "None"), ("true", "True"), ("false", "False")):
            text = re.sub(rf"\b{yaml}\b", python, text)
        lines.append(f"    {field.name}: {text}.")
    kind.__doc__ = "\n".join([inspect.cleandoc(kind.__doc__ or ""), "", "Args:", *lines])
    return kind


@documented
@dataclass(kw_only=True)
class Config:
    """Options of one operator, and its name in plans and on the command line.

    Values are plain. Subclass it, or TableConfig and CodecConfig, as a dataclass whose fields are
    made by halut.option.option.
    """

    name: str = ""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        checked_values(kind, {key: getattr(self, key) for key in field_types(kind)}, "halut.")

    def options(self) -> dict[str, Any]:
        """Every option as a plan and a YAML file have it; without the operator's name."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "name"
        }


@documented
@dataclass(kw_only=True)
class Exact(Config):
    """The exact product, in a layer of halut: changes nothing."""

    name: str = "exact"


def from_options(
    kind: type[C],
    options: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
    path: str = "halut.",
) -> C:
    """A configuration of plain values; options that are not given have their defaults.

    Old names of options are understood (halut.option.RENAMED). `extra`: types of further options,
    which become attributes beside the fields. Raises HalutError on an unknown key, a wrong type
    and what `kind` itself refuses.
    """
    values = checked_values(kind, options, path, extra)
    fields = {field.name for field in dataclasses.fields(kind)}
    config = kind(**{key: value for key, value in values.items() if key in fields})
    for key in values.keys() - fields:
        setattr(config, key, values[key])
    return config


def checked_values(
    kind: type, options: Mapping[str, Any], path: str, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The options under their new names; HalutError if the dataclass has no such key or type."""
    hints = {**field_types(kind), **(extra or {})}
    names = list(hints)
    values = {}
    for key, value in options.items():
        key = new_name(f"{path}{key}").removeprefix(path)
        if key not in names:
            choices = ", ".join(name for name in names if name != "name")
            raise HalutError(f"unknown option {path}{key}; choose from: {choices}")
        if not _fits(value, hints[key]):
            expected = getattr(hints[key], "__name__", str(hints[key]))
            raise HalutError(f"{path}{key} must be {expected}, got {value!r}")
        values[key] = value
    return values


@functools.cache
def field_types(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    if hint is Any or Any in kinds:
        return True
    if isinstance(value, bool) and bool not in kinds:
        return False
    plain = tuple(typing.get_origin(k) or k for k in kinds)
    return isinstance(value, plain) or (isinstance(value, int) and float in plain)
