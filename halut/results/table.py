"""Terminal tables of records, one for every kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from halut.analysis.energy import in_joules
from halut.analysis.run_figures import flat
from halut.analysis.sweep_results import axes_of, telling
from halut.analysis.variants import counted, prefixed
from halut.results.record import KINDS, Record
from halut.results.select import Row, fields_of, text_of


def in_ms(seconds: float) -> str:
    """Seconds as milliseconds, three digits."""
    return f"{1e3 * seconds:.3g}"


FIGURES: dict[str, dict[str, tuple[str, Callable[[float], str]]]] = {
    "sensitivity": {
        "lost": ("lost", "{:.2f}".format),
        "accuracy": ("accuracy", "{:.2f}".format),
        "second_order": ("second order", "{:.2g}".format),
        "normalized_mse": ("layer error", "{:.2g}".format),
        "code_perplexity": ("perplexity", "{:.1f}".format),
        "bytes": ("bytes", "{:,.0f}".format),
        "int8_bytes": ("int8 bytes", "{:,.0f}".format),
        "operations": ("operations", "{:,.0f}".format),
        "bops": ("bit ops", prefixed),
    },
    "plan": {
        "lost": ("lost", "{:.2f}".format),
        "accuracy": ("accuracy", "{:.2f}".format),
        "rise": ("rise of the loss", "{:.4f}".format),
    },
    "cost": {
        "macs": ("macs", "{:,.0f}".format),
        "encode_compares": ("compares", "{:,.0f}".format),
        "lookups": ("look-ups", "{:,.0f}".format),
        "adds": ("adds", "{:,.0f}".format),
        "operations": ("operations", "{:,.0f}".format),
        "bytes": ("bytes", "{:,.0f}".format),
        "bops": ("bit ops", prefixed),
        "weight_bits": ("bits w", "{:.3g}".format),
        "energy": ("energy", in_joules),
        "latency": ("latency ms", in_ms),
    },
    "latency": {
        "latency": ("latency ms", in_ms),
        "exact_latency": ("exact ms", in_ms),
    },
    "run": {
        "test_accuracy": ("test", "{:.2f}".format),
        "lost": ("lost", "{:.2f}".format),
        "exact_accuracy": ("exact", "{:.2f}".format),
        "baseline_accuracy": ("tuned", "{:.2f}".format),
        "int8_accuracy": ("int8", "{:.2f}".format),
        "int4_accuracy": ("int4", "{:.2f}".format),
        "normalized_mse": ("layer error", "{:.2g}".format),
        "bytes": ("bytes", "{:,.0f}".format),
        "operations": ("operations", "{:,.0f}".format),
        "bops": ("bit ops", prefixed),
        "energy": ("energy", in_joules),
        "seconds": ("s", "{:.0f}".format),
    },
}
"""Figures that a table of a kind shows where a record has them: title, and the text of a value."""
FIGURES["convergence"] = FIGURES["sensitivity"]
IDENTITY = ("model", "data", "split", "samples", "site", "operator", "calibration", "score", "seed")
"""Fields that are a column where the records differ in them, and else told above the table."""
MAX_OPTION_COLUMNS = 5
OPERATOR = "options.name"
"""The operator among options: `axes_of` takes it as what decides the rest of its group."""


def tables(records: Sequence[Record], limit: int = 0, width: int | None = None) -> list[Table]:
    """A table of each kind among the records, of at most `limit` lines each (0: all).

    Figures that do not fit `width` columns are left out, the last ones first, and named below.
    """
    kinds = [kind for kind in KINDS if any(record.kind == kind for record in records)]
    return [_fitting([r for r in records if r.kind == kind], limit, width) for kind in kinds]


def _fitting(records: list[Record], limit: int, width: int | None) -> Table:
    rows = [fields_of(record) for record in records]
    identity = [n for n in IDENTITY if len({text_of(row.get(n)) for row in rows}) > 1]
    common = [text for n in IDENTITY if n not in identity and (text := _told(rows[0], n))]
    title = f"{records[0].kind}: {counted(len(records), 'record')}; {', '.join(common)}"
    names = {**{name: name for name in identity}, **options_that_differ(records)}
    figures = [f for f in FIGURES[records[0].kind] if any(f in r.figures for r in records)]
    lines = list(zip(records, rows, strict=True))[: limit or None]
    more = f"{len(records) - len(lines)} more; --limit 0 shows all"
    notes = [more] if len(lines) < len(records) else []
    columns = figures
    table = _table(title, lines, names, columns)
    while width is not None and len(columns) > 1 and _width(table) > width:
        columns = columns[:-1]
        table = _table(title, lines, names, columns)
    if len(columns) < len(figures):
        titles = (FIGURES[records[0].kind][name][0] for name in figures[len(columns) :])
        notes.insert(0, f"left out: {', '.join(titles)}")
    table.caption = Text("; ".join(notes)) if notes else None
    return table


def _width(table: Table) -> int:
    texts = ([str(column.header), *map(str, column.cells)] for column in table.columns)
    return sum(max(map(len, each)) + 3 for each in texts) + 1


def _table(
    title: str, lines: Sequence[Row], names: Mapping[str, str], columns: Sequence[str]
) -> Table:
    """A table of records of one kind: fields by name, with their titles, and figures."""
    figures = FIGURES[lines[0][0].kind]
    table = Table(title=Text(title), title_justify="left", caption_justify="left")
    for column in names.values():
        table.add_column(column, overflow="fold")
    for name in columns:
        table.add_column(figures[name][0], justify="right", no_wrap=True)
    for record, row in lines:
        cells = [_cell(row, name) for name in names]
        table.add_row(*cells, *(_figure(record, name, figures[name][1]) for name in columns))
    return table


def _cell(row: Mapping[str, Any], name: str) -> Text:
    """A field; a setting that is null is told, and nothing where a record has no such field."""
    value = row.get(name)
    return Text("" if value is None and (name in IDENTITY or name not in row) else text_of(value))


def options_that_differ(records: Sequence[Record]) -> dict[str, str]:
    """The options and settings in which records of one kind differ, the most telling of many.

    A column's title by the field's name. What an operator alone decides, as the options that it
    has and others lack, is left out.
    """
    configs = [
        {
            OPERATOR: record.operator,
            **{f"options.{key}": value for key, value in flat(dict(record.options))},
            **dict(flat(dict(record.settings))),
        }
        for record in records
    ]
    axes = [axis for axis in axes_of(configs) if axis != OPERATOR]
    axes = telling(configs, axes) if len(axes) > MAX_OPTION_COLUMNS else axes
    return {
        axis if axis.startswith("options.") else f"settings.{axis}": axis.removeprefix("options.")
        for axis in axes
    }


def _told(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    words = {"samples": "{} samples", "seed": "seed {}", "calibration": "{} calibration images"}
    return words.get(name, "{}").format(text_of(value))


def _figure(record: Record, name: str, form: Callable[[float], str]) -> str:
    value = record.figures.get(name)
    if value is None:
        return "not finite" if name in record.not_finite else ""
    return form(value)
