"""Fields of records by name, and records selected and sorted by them."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from halut.analysis.run_figures import flat, is_number
from halut.errors import HalutError
from halut.results.code_bits import code_bits
from halut.results.record import Record

BASE = (
    *("kind", "model", "weights", "data", "split", "samples", "site", "operator", "bits", "seed"),
    *("calibration", "score"),
)
"""Fields of every record; bits: see halut.results.code_bits."""
GROUPS = ("options", "settings", "figures", "context")
"""Mappings whose keys are fields, with the group's name before them: options.C, figures.lost."""
SHORT = ("options", "figures", "settings", "context", "data", "network")
"""Groups in which a field is looked for that is named without one, in this order."""
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
CONDITION = re.compile(r"([^<>=!]+)(!=|<=|>=|==|=|<|>)(.*)", re.S)
Row = tuple[Record, dict[str, Any]]
"""A record with its fields."""
MAX_CHOICES = 60
"""Names of fields that a refusal lists."""


def fields_of(record: Record) -> dict[str, Any]:
    """Every field of a record by name: those of BASE, and the keys of its mappings behind their
    group's name, dots in between: figures.lost, options.activation.width.

    >>> fields_of(record)["options.C"]
    16
    """
    network, data = record.network, record.data
    base = {
        "kind": record.kind,
        "model": network.get("model"),
        "weights": network.get("weights"),
        "data": data.get("name"),
        "split": data.get("split"),
        "samples": data.get("samples"),
        "site": record.site,
        "operator": record.operator,
        "bits": code_bits(record.operator, record.options),
        **{name: getattr(record, name) for name in BASE[BASE.index("bits") + 1 :]},
    }
    groups = {"network": dict(network), "data": dict(data)}
    groups |= {name: dict(getattr(record, name)) for name in GROUPS}
    return {**base, **dict(flat(groups))}


def value_of(fields: Mapping[str, Any], name: str) -> Any:
    """The field of that name, or of its last part alone; None if the record has none."""
    return next((fields[place] for place in _places(name) if place in fields), None)


def where(
    records: Iterable[Record], conditions: Sequence[str], known: Iterable[Record] = ()
) -> list[Record]:
    """The records for which all conditions hold: NAME=VALUE, !=, <, <=, >, >=.

    NAME is a field (`fields_of`), its group left out where it is clear; VALUE a number or a text,
    with = and != one of several by commas and with * and ? as in file names. A record that lacks
    the field meets NAME!=VALUE and NAME=null alone. Raises HalutError for what is no condition, and
    for a name that no record has, nor one of those that are `known`.

    >>> where(records, ["C=16,32", "lost<1", "site=stack3.*"])
    """
    rows = [(record, fields_of(record)) for record in records]
    every = [fields for _, fields in rows] + [fields_of(record) for record in known]
    for condition in conditions:
        check_name(every, parts_of(condition)[0])
        rows = _where(rows, condition)
    return [record for record, _ in rows]


def parts_of(condition: str) -> tuple[str, str, str]:
    """Name, comparison and value of a condition; HalutError for what is none."""
    match = CONDITION.fullmatch(condition)
    if match is None:
        comparisons = " ".join(COMPARISONS)
        raise HalutError(f"{condition!r} is no condition NAME=VALUE; comparisons: {comparisons}")
    name, sign, text = (part.strip() for part in match.groups())
    return name, "=" if sign == "==" else sign, text


def _where(rows: list[Row], condition: str) -> list[Row]:
    name, sign, text = parts_of(condition)
    if sign in ("=", "!="):
        equal = _equal_to(text)
        return [row for row in rows if equal(value_of(row[1], name)) == (sign == "=")]
    number = _scalar(text)
    if not is_number(number):
        raise HalutError(f"{condition!r}: {sign} compares numbers, and {text!r} is none")
    compare = COMPARISONS[sign]
    values = ((row, value_of(row[1], name)) for row in rows)
    return [row for row, value in values if is_number(value) and compare(value, number)]


def sort_by(records: Iterable[Record], name: str, reverse: bool = False) -> list[Record]:
    """The records by a field: numbers by size, then texts, and last those that lack it."""
    rows = [(record, fields_of(record)) for record in records]
    check_name([fields for _, fields in rows], name)
    values = [(value_of(fields, name), record) for record, fields in rows]
    pairs = [(value, record) for value, record in values if value is not None]
    pairs.sort(key=lambda pair: _order(pair[0]), reverse=reverse)
    return [record for _, record in pairs] + [record for value, record in values if value is None]


def check_name(rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Raise HalutError, naming the choices, if there are fields of records and none is `name`."""
    if not rows or any(each in fields for fields in rows for each in _places(name)):
        return
    short = dict.fromkeys(_short(each) for each in names_of(rows))
    near = difflib.get_close_matches(name, short, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near else ""
    telling = [each for each in short if not each.startswith(("context.", "network.", "data."))]
    telling.sort(key=lambda each: each.count("."))
    more = f", and {len(telling) - MAX_CHOICES} more" if len(telling) > MAX_CHOICES else ""
    choices = ", ".join(telling[:MAX_CHOICES])
    raise HalutError(f"unknown field {name!r}; {hint}choose one of: {choices}{more}")


def names_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of all fields of the records: BASE, options, figures, then the rest."""
    names = dict.fromkeys(name for fields in rows for name in fields)
    order = {group: place for place, group in enumerate(SHORT)}
    return sorted(names, key=lambda n: -1 if n in BASE else order.get(n.partition(".")[0], 9))


def _places(name: str) -> tuple[str, ...]:
    option = name.removeprefix("halut.")  # as a command line has it
    return name, *(f"{group}.{name}" for group in SHORT), f"options.{option}"


def _short(name: str) -> str:
    group, _, rest = name.partition(".")
    return rest if group in ("options", "figures", "settings") and rest else name


def _equal_to(text: str) -> Callable[[Any], bool]:
    """Whether a value is the text, or one of those between its commas."""
    parts = (
        [text.replace(" ", "")]
        if text.startswith(("[", "{"))
        else [part.strip() for part in text.split(",")]
    )
    choices = [(_scalar(part), part) for part in parts]

    def equal(value: Any) -> bool:
        for scalar, part in choices:
            if isinstance(value, str):
                if fnmatchcase(value, part):
                    return True
            elif is_number(value) and is_number(scalar):
                if value == scalar:
                    return True
            elif value is scalar or (isinstance(value, list | dict) and text_of(value) == part):
                return True
        return False

    return equal


def text_of(value: Any) -> str:
    """A value as a command line has it: null, true, [a,b], {a:1}."""
    if isinstance(value, list):
        return f"[{','.join(map(text_of, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{text_of(each)}' for key, each in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _scalar(text: str) -> Any:
    """null, true, false, a number, or the text."""
    words = {"null": None, "none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return float(text)
    except ValueError:
        return text


def _order(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if is_number(value) else (1, 0.0, str(value))
