"""Every operator a plan can name: the registered ones, one for each encoder and each codec."""

from __future__ import annotations

from halut.codecs import codecs
from halut.encoders import encoders
from halut.errors import HalutError
from halut.layers.codec_operator import codec_operator
from halut.layers.table_operator import table_operator
from halut.sites.operator import Operator, operators


def operator_type(name: str) -> type[Operator]:
    """The operator of that name; encoders are operators of the table family, codecs of theirs."""
    if name in encoders:
        return table_operator(name)
    if name in codecs:
        return codec_operator(name)
    if name not in operators:
        known = ", ".join(operator_names())
        raise HalutError(f"unknown operator {name!r}; choose one of: {known}")
    return operators[name]


def operator_names() -> list[str]:
    """Every operator a plan can name."""
    return sorted({*encoders, *codecs, *operators})
