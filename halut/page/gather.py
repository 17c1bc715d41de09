"""Everything a page shows, from stores of records and run folders, as plain JSON types."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halut.analysis.run_figures import run_folders
from halut.errors import HalutError
from halut.page.columns import as_columns
from halut.page.measurements import record_notes, record_rows
from halut.page.outcomes import headline, points, repeated_seeds
from halut.page.runs import read_run_folder
from halut.results.record import Record
from halut.results.store import SUFFIX, Store

SCHEMA = 1
KEPT = ("run_dir", "results", "data.root", "base.cache", "schedule.cache")
"""Keys of a configuration, by how they begin, that say where a run was kept."""
DETAILED_RUNS = 8
"""Runs whose codes, trees and prototypes are on the page; each may take a megabyte."""


def gather(paths: Sequence[Path], title: str | None = None) -> dict[str, Any]:
    """The content of a page of stores, run folders and folders of these.

    {"schema", "title", "notes", "headline", "points", "records", "runs"}; headline, points and
    records as halut.page.columns has tables. Raises HalutError if a path does not exist or is
    neither a store nor a run nor a folder that holds one.
    """
    records: list[Record] = []
    notes: list[str] = []
    folders: list[Path] = []
    paths = list({os.path.realpath(path): path for path in paths}.values())
    for path, name in zip(paths, folder_names(paths), strict=True):
        if not path.is_dir():
            raise HalutError(f"{path}: no such folder of results or runs")
        if any(path.glob(f"*{SUFFIX}")):
            reading = Store(path).read()
            records += reading.records
            notes += [f"{name}: {problem}" for problem in reading.problems]
            if not reading.records:
                notes.append(f"{name}: holds no record that could be read")
        elif runs := list(run_folders(path)):
            folders += runs
        elif not any(path.iterdir()):
            notes.append(f"{name}: an empty store")
        else:
            raise HalutError(f"{path}: neither a store of results (*{SUFFIX}) nor a run folder")
    records, again = _once(records)
    if again:
        are = "record is" if again == 1 else "records are"
        notes.append(f"{again:,} {are} in several stores; each counts once")
    folders = list({os.path.realpath(folder): folder for folder in folders}.values())
    names = folder_names(folders)
    runs_read = [read_run_folder(f, name, notes) for f, name in zip(folders, names, strict=True)]
    on_page = {os.path.realpath(folder) for folder in folders}
    own = [record for record in records if not _is_of(record, on_page)]
    if len(own) < len(records):
        count = len(records) - len(own)
        are = "record is of a run folder" if count == 1 else "records are of run folders"
        notes.append(f"{count:,} {are} on this page; each counts once")
    return page_of(own, runs_read, notes, title)


def page_of(
    records: Sequence[Record],
    runs: Sequence[dict[str, Any]],
    notes: list[str],
    title: str | None = None,
) -> dict[str, Any]:
    """The content of a page of records and runs that were read."""
    sites: dict[str, set[str]] = {}
    for run in runs:
        if run["model"] and run["sites"]:
            sites.setdefault(run["model"], set()).update(site["name"] for site in run["sites"])
    notes = [*notes, *record_notes(records, sites)]
    if not records and not runs:
        notes.append("nothing was measured yet: neither a record nor a run")
    detailed = [run["name"] for run in runs if run["details"]][:DETAILED_RUNS]
    dropped = [run for run in runs if run["details"] and run["name"] not in detailed]
    for run in dropped:
        run["details"] = {}
    if dropped:
        notes.append(
            f"codes, trees and prototypes are of the first {DETAILED_RUNS} runs, {len(dropped)} "
            f"{'is' if len(dropped) == 1 else 'are'} without; a page of fewer runs has them, as "
            "each run's own report.html"
        )
    front = points(runs, records)
    notes += repeated_seeds(front)
    rows = record_rows(records)
    of_runs = [run["subject"] for run in runs if run["subject"]]
    subjects = list(dict.fromkeys([*of_runs, *(row["subject"] for row in rows)]))
    return {
        "schema": SCHEMA,
        "title": title or ", ".join(subjects[:3]) or "No results yet",
        "notes": notes,
        "headline": as_columns(headline(front)),
        "points": as_columns(front),
        "records": as_columns(rows),
        "runs": [shown(run) for run in runs],
    }


def shown(run: Mapping[str, Any]) -> dict[str, Any]:
    """What the page has of a run: neither its figures by path nor where it was kept."""
    config = {k: v for k, v in run["config"].items() if not k.startswith(KEPT)}
    return {**{k: v for k, v in run.items() if k != "figures"}, "config": config}


def folder_names(folders: Sequence[Path]) -> list[str]:
    """The folders' last names, with as many of their parents as tell them apart.

    A page says no more of where they are: it is the same from a copy elsewhere.
    """
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    names = [each[-1] for each in parts]
    depth = 1
    while len(set(names)) < len(names) and depth < max(map(len, parts)):
        depth += 1
        names = ["/".join(each[-depth:]) for each in parts]
    return names


def _once(records: Sequence[Record]) -> tuple[list[Record], int]:
    kept: dict[str, Record] = {}
    for record in records:
        kept[record.key] = record
    return list(kept.values()), len(records) - len(kept)


def _is_of(record: Record, folders: set[str]) -> bool:
    run = record.context.get("run")
    return record.kind == "run" and run is not None and os.path.realpath(run) in folders
