"""Registry of the operators a plan can name, one for each encoder and each codec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halut.codecs import codecs
from halut.codecs.factors import extra_types
from halut.configs import CodecConfig, Config, TableConfig, from_options
from halut.encoders import encoders
from halut.errors import HalutError
from halut.layers.codec_operator import CodecOperator
from halut.layers.table_operator import TableOperator
from halut.option import unknown
from halut.sites.operator import Operator, operators


def operator_names() -> list[str]:
    """Every operator a plan can name."""
    return sorted({*encoders, *codecs, *operators})


def config_type(name: str) -> type[Config]:
    """The configuration of the operator of that name; HalutError if there is none."""
    for registry in (encoders, codecs, operators):
        if name in registry:
            return registry[name].Config
    raise HalutError(unknown("operator", name, operator_names()))


def config_of(name: str, options: Mapping[str, Any]) -> Config:
    """The configuration of the operator `name`, of plain values as a plan has them.

    Raises HalutError on an unknown name or option, a wrong type, or a value out of range.
    """
    kind = config_type(name)
    return from_options(kind, {**options, "name": name}, extra_types(kind))


def operator_of(config: Config) -> Operator:
    """The operator that a configuration describes.

    Encoders are operators of the table family, codecs of theirs. Raises HalutError if the options
    do not go together.
    """
    kind = config_type(config.name)
    if not isinstance(config, kind):
        raise HalutError(
            f"halut.name={config.name} is no name of a {type(config).__name__}; choose the "
            f"operator by halut={config.name}"
        )
    if isinstance(config, TableConfig):
        return TableOperator(config)
    if isinstance(config, CodecConfig):
        return CodecOperator(config)
    return operators[config.name](config)


def make_operator(name: str, **options: Any) -> Operator:
    """The operator `name` with the options given, the others by default.

    >>> make_operator("tree", K=8).config.K
    8
    """
    return operator_of(config_of(name, options))


def about(name: str) -> str:
    """What the operator does, in a line."""
    return (config_type(name).__doc__ or "").split("\n\n")[0].replace("\n", " ")
