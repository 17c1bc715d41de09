"""Every operator a plan can name: the registered ones, and one for each registered encoder."""

from __future__ import annotations

from halut.encoders import encoders
from halut.errors import HalutError
from halut.layers.operator import table_operator
from halut.operators import Operator, operators


def operator_type(name: str) -> type[Operator]:
    """The operator of that name; every registered encoder is an operator of the table family."""
    if name in encoders:
        return table_operator(name)
    if name not in operators:
        known = ", ".join(operator_names())
        raise HalutError(f"unknown operator {name!r}; choose one of: {known}")
    return operators[name]


def operator_names() -> list[str]:
    """Every operator a plan can name."""
    return sorted({*encoders, *operators})
