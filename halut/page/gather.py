"""Everything a page shows, from stores, run folders and searches, as plain JSON types."""

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
from halut.page.searches import read_search, search_folders
from halut.results.record import Record
from halut.results.store import SUFFIX, Store

SCHEMA = 1
KEPT = ("run_dir", "results", "data.root", "base.cache", "schedule.cache")
"""Keys of a configuration, by how they begin, that say where a run was kept."""
DETAILED_RUNS = 8
"""Runs whose codes, trees and prototypes are on the page; each may take a megabyte."""


def gather(paths: Sequence[Path], title: str | None = None) -> dict[str, Any]:
    """The content of a page of stores, run folders, searches and folders of these.

    {"schema", "title", "notes", "headline", "points", "records", "runs", "searches"}; headline,
    points and records as halut.page.columns has tables. Runs below the folder of a search are its
    own, and no runs of the page. Raises HalutError if a path does not exist or is neither a store
    nor a run nor a search nor a folder that holds one, or if a search that cannot be read is all.
    """
    records: list[Record] = []
    notes: list[str] = []
    folders: list[Path] = []
    searches: list[Path] = []
    paths = list({os.path.realpath(path): path for path in paths}.values())
    for path, name in zip(paths, folder_names(paths), strict=True):
        if not path.is_dir():
            raise HalutError(f"{path}: no such folder of results or runs")
        own_searches = search_folders(path)
        searches += own_searches
        if any(path.glob(f"*{SUFFIX}")):
            reading = Store(path).read()
            records += reading.records
            notes += [f"{name}: {problem}" for problem in reading.problems]
            if not reading.records:
                notes.append(f"{name}: holds no record that could be read")
        elif runs := [run for run in run_folders(path) if not _is_below(run, own_searches)]:
            folders += runs
        elif own_searches:
            continue
        elif not any(path.iterdir()):
            notes.append(f"{name}: an empty store")
        else:
            raise HalutError(
                f"{path}: neither a store of results (*{SUFFIX}) nor a run folder nor a search"
            )
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
    searches_read = _searches(searches, notes, alone=not own and not runs_read)
    return page_of(own, runs_read, notes, title, searches_read)


def _searches(folders: Sequence[Path], notes: list[str], alone: bool) -> list[dict[str, Any]]:
    """The searches that can be read, and a note of each that cannot; HalutError if that is all."""
    folders = list({os.path.realpath(folder): folder for folder in folders}.values())
    searches = []
    for folder, name in zip(folders, folder_names(folders), strict=True):
        try:
            searches.append(read_search(folder, name))
        except HalutError as error:
            if alone and len(folders) == 1:
                raise
            notes.append(str(error).replace(str(folder), name, 1))
    return searches


def page_of(
    records: Sequence[Record],
    runs: Sequence[dict[str, Any]],
    notes: list[str],
    title: str | None = None,
    searches: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The content of a page of records, runs and searches that were read."""
    sites: dict[str, set[str]] = {}
    for run in runs:
        if run["model"] and run["sites"]:
            sites.setdefault(run["model"], set()).update(site["name"] for site in run["sites"])
    notes = [*notes, *record_notes(records, sites)]
    if not records and not runs and not searches:
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
    subjects = subjects or [f"search {search['name']}" for search in searches]
    return {
        "schema": SCHEMA,
        "title": title or ", ".join(subjects[:3]) or "No results yet",
        "notes": notes,
        "headline": as_columns(headline(front)),
        "points": as_columns(front),
        "records": as_columns(rows),
        "runs": [shown(run) for run in runs],
        "searches": list(searches),
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


def _is_below(run: Path, folders: Sequence[Path]) -> bool:
    return any(folder in (run, *run.parents) for folder in folders)


def _once(records: Sequence[Record]) -> tuple[list[Record], int]:
    kept: dict[str, Record] = {}
    for record in records:
        kept[record.key] = record
    return list(kept.values()), len(records) - len(kept)


def _is_of(record: Record, folders: set[str]) -> bool:
    run = record.context.get("run")
    return record.kind == "run" and run is not None and os.path.realpath(run) in folders
