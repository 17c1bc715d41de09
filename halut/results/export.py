"""Records as CSV and JSON files, for spreadsheets and for data frames."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from halut.io import write_bytes, write_json
from halut.results.record import SCHEMA, Record
from halut.results.select import fields_of, names_of


def as_csv(records: Sequence[Record]) -> str:
    """A line a record, a column a field (`fields_of`), and at last the figures that are not finite.

    >>> pandas.read_csv(io.StringIO(as_csv(records)))["figures.lost"]
    """
    rows = [fields_of(record) for record in records]
    names = names_of(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "not_finite"])
    for record, row in zip(records, rows, strict=True):
        cells = [_cell(row.get(name)) for name in names]
        writer.writerow([*cells, " ".join(record.not_finite)])
    return text.getvalue()


def as_json(records: Sequence[Record]) -> dict[str, Any]:
    """{"schema", "records"}: every record as the store has it, with its key."""
    return {"schema": SCHEMA, "records": [{"key": r.key, **asdict(r)} for r in records]}


def write_table(path: Path, records: Sequence[Record]) -> None:
    """`as_csv` into a file."""
    write_bytes(path, as_csv(records).encode())


def write_records(path: Path, records: Sequence[Record]) -> None:
    """`as_json` into a file."""
    write_json(path, as_json(records))


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return repr(value) if type(value) in (int, float) else json.dumps(value)
