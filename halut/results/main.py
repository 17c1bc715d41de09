"""Command line of `halut results`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from halut.analysis.variants import counted
from halut.errors import HalutError
from halut.option import unknown
from halut.results.export import write_records, write_table
from halut.results.mixed import mixed
from halut.results.record import KINDS, Record
from halut.results.runs import import_runs
from halut.results.select import fields_of, parts_of, sort_by, text_of, value_of, where
from halut.results.store import DEFAULT, Reading, Store
from halut.results.table import tables

LIMIT = 100
MAX_VALUES = 12
"""Values of a field that a refusal lists."""
SELECTIONS = {"model": "models", "data": "data sets", "site": "sites", "operator": "operators"}
"""Fields that have a flag of their own, and what they name."""
EXAMPLES = """\
examples:
  halut results                                       every record of the store results/
  halut results --kind sensitivity --site 'stack3.*' --where 'C=16,32' 'lost<1' --sort lost
  halut results benchmarks/store --model resnet8 --csv resnet8.csv
  halut results --kind run --where 'run=*/runs/C/*'   the runs of one sweep, by their folder
  halut results import runs/C runs/mine               records of finished runs, into results/

--where takes NAME=VALUE, !=, <, <=, > and >= of options, figures, settings and context; = takes
several values by commas, and * and ? as in names of files. Quote < and > for the shell.
"""


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, or 1 if the store, or a run that is to be imported, is damaged or failed."""
    if arguments and arguments[0] == "import":
        return _import(arguments[1:])
    options = parser().parse_args(arguments)
    store: Path = options.store
    reading = Store(store).read()
    for problem in reading.problems:
        print(f"warning: {store}: {problem}", file=sys.stderr)
    if not reading.records:
        print(f"{store} holds no record; `halut results import RUN` and the other verbs add some")
        return 1 if reading.problems else 0
    records = selected(reading, options)
    for line in (*not_finite(reading.records), *mixed(records)):
        print(line)
    console = Console() if sys.stdout.isatty() else Console(width=200, soft_wrap=False)
    for table in tables(records, options.limit, console.width):
        console.print(table)
    print(f"{len(records)} of {counted(len(reading.records), 'record')} of {store}")
    for write, path in ((write_table, options.csv), (write_records, options.json)):
        if path is not None:
            write(path, records)
            print(f"saved: {path}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Arguments of `halut results`."""
    parser = argparse.ArgumentParser(
        prog="halut results",
        usage="halut results [STORE] [OPTIONS]\n       halut results import FOLDER... [OPTIONS]",
        description="List, filter and export the records of a store; import run folders into one.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = f"folder of the store (default: {DEFAULT})"
    parser.add_argument("store", type=Path, nargs="?", default=DEFAULT, metavar="STORE", help=text)
    parser.add_argument("--kind", help=f"records of a kind: {', '.join(KINDS)}")
    for name, noun in SELECTIONS.items():
        text = f"records of these {noun}, by commas, * and ?"
        parser.add_argument(f"--{name}", metavar="NAME", help=text)
    text = "conditions, such as C=16, 'lost<1', schedule.order=inner_first"
    parser.add_argument(
        "--where", nargs="+", action="extend", default=[], metavar="NAME=V", help=text
    )
    parser.add_argument("--sort", metavar="NAME", help="order by a field; by default as measured")
    parser.add_argument("--reverse", action="store_true", help="largest first")
    text = f"lines of a table, 0: all (default: {LIMIT})"
    parser.add_argument("--limit", type=_count, default=LIMIT, metavar="N", help=text)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the records as CSV")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records as JSON")
    return parser


def _count(text: str) -> int:
    """A type of argparse: a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, got {text!r}")
    return int(text)


def selected(reading: Reading, options: argparse.Namespace) -> list[Record]:
    """The records that the arguments ask for; HalutError, naming the choices, if there are none."""
    records = reading.records
    for name in ("kind", *SELECTIONS):
        value = getattr(options, name)
        if value is None:
            continue
        records, choices = where(records, [f"{name}={value}"]), values_of(records, name)
        if not records:
            raise HalutError(unknown(name, value, choices) if choices else f"none has a {name}")
    for condition in options.where:
        before, records = records, where(records, [condition], reading.records)
        if not records:
            raise HalutError(_none_has(condition, before))
    return sort_by(records, options.sort, options.reverse) if options.sort else records


def _none_has(condition: str, records: Sequence[Record]) -> str:
    """That no record meets a condition, and the values of its field that there are."""
    values = values_of(records, parts_of(condition)[0])
    more = f", and {len(values) - MAX_VALUES} more" if len(values) > MAX_VALUES else ""
    there = f": it is {', '.join(values[:MAX_VALUES])}{more}" if values else ""
    return f"none of {counted(len(records), 'record')} has {condition}{there}"


def not_finite(records: Sequence[Record]) -> list[str]:
    """A line if figures are not finite, which no comparison finds: how many records, which."""
    names = sorted({name for record in records for name in record.not_finite})
    count = sum(bool(record.not_finite) for record in records)
    if not names:
        return []
    have = "record has" if count == 1 else "records have"
    return [f"not finite: {count} {have} no number for {', '.join(names)}, and meet no < or >"]


def values_of(records: Sequence[Record], name: str) -> list[str]:
    """The values that a field has among the records, sorted."""
    values = (value_of(fields_of(record), name) for record in records)
    return sorted({text_of(value) for value in values if value is not None})


def import_parser() -> argparse.ArgumentParser:
    """Arguments of `halut results import`."""
    parser = argparse.ArgumentParser(
        prog="halut results import",
        description="Append the records of finished runs, at and below folders, to a store. What "
        "it has already is skipped; what is failed, unfinished or damaged is named.",
        epilog="example: halut results import runs/C runs/mine --results results",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    text = f"folder of the store (default: {DEFAULT})"
    parser.add_argument("--results", type=Path, default=DEFAULT, metavar="STORE", help=text)
    return parser


def _import(arguments: Sequence[str]) -> int:
    options = import_parser().parse_args(arguments)
    outcome = import_runs(Store(options.results), options.folders)
    for line in outcome.problems:
        print(f"warning: {line}", file=sys.stderr)
    added, present = len(outcome.added), outcome.present
    there = "1 was" if present == 1 else f"{present} were"
    print(
        f"{options.results}: {counted(added, 'record')} added, {there} there, "
        f"{outcome.failed} failed"
    )
    return 1 if outcome.failed else 0
