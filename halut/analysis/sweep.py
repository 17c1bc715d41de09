"""Runs gathered into one table: what differs among them, and their figures, over seeds."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halut.analysis.run_figures import (
    FAILED,
    FIGURES,
    FINISHED,
    UNFINISHED,
    RunRecord,
    read_run,
    run_folders,
)
from halut.errors import HalutError
from halut.files import write_bytes, write_json

SCHEMA = 1
SEED = "seed"
WHERE = ("run_dir", "logger.", "debug.", "data.root", "data.workers", "data.download", "base.cache")
"""Keys that say where and how a run is kept: no axis."""


@dataclass(frozen=True)
class Point:
    """Finished runs that differ in their seed alone: `mean`, and sample `std` from two runs on."""

    values: dict[str, Any]
    runs: int
    mean: dict[str, float]
    std: dict[str, float]


@dataclass(frozen=True)
class Sweep:
    """The runs below one folder; `axes` are the keys in which they differ, the seed's included.

    A curve is drawn over the axis `x`, one for all places on the axes `lines`.
    """

    folder: Path
    axes: list[str]
    runs: list[RunRecord]
    points: list[Point]
    x: str | None
    lines: list[str]

    def count(self, status: str) -> int:
        """Runs of that status."""
        return sum(run.status == status for run in self.runs)

    @property
    def words(self) -> dict[str, str]:
        """What the configuration calls an axis (KEY) or a value of it (KEY=VALUE)."""
        every = (run.shown.get("words") or {} for run in self.runs)
        return {key: word for words in every for key, word in words.items()}

    def word(self, axis: str, value: Any) -> str:
        """A value of an axis as it is shown."""
        text = value if isinstance(value, str) else json.dumps(value)
        return self.words.get(f"{axis}={text}", text)

    def values(self, run: RunRecord) -> dict[str, Any]:
        """The run's place on every axis."""
        return {axis: run.config.get(axis) for axis in self.axes}


def gather(folder: Path | str) -> Sweep:
    """Read every run folder at or below `folder`. Raises HalutError if there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise HalutError(f"{folder}: no such folder")
    runs = [read_run(path) for path in run_folders(folder)]
    if not runs:
        raise HalutError(f"{folder} holds no run folder (none has a config.json)")
    configs = [run.config for run in runs if run.config]
    axes = axes_of(configs)
    x = x_axis(runs, axes)
    ordered = [axis for axis in axes if axis not in (x, SEED)]
    axes = ordered + [axis for axis in (x, SEED) if axis in axes]
    runs = sorted(runs, key=lambda run: [_order(run.config.get(axis)) for axis in axes])
    lines = [axis for axis in ordered if x is None or not decides(configs, x, axis)]
    return Sweep(folder, axes, runs, points_of(runs, axes), x, lines)


def axes_of(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Keys whose values differ; options that a group's name alone decides are no axes."""
    keys = sorted({key for config in configs for key in config if not key.startswith(WHERE)})
    found = []
    for key in keys:
        if len({json.dumps(config.get(key), sort_keys=True) for config in configs}) < 2:
            continue
        name = f"{key.split('.')[0]}.name"
        if key == name or not decides(configs, name, key):
            found.append(key)
    return found


def decides(configs: Sequence[dict[str, Any]], cause: str, key: str) -> bool:
    """True if `cause` differs among configs, and runs that agree in it agree in `key`."""
    values: dict[str, set[str]] = {}
    for config in configs:
        place, value = (json.dumps(config.get(k), sort_keys=True) for k in (cause, key))
        values.setdefault(place, set()).add(value)
    return len(values) > 1 and all(len(each) == 1 for each in values.values())


def x_axis(runs: Sequence[RunRecord], axes: Sequence[str]) -> str | None:
    """What a curve is drawn over: sweep.x of the configuration, else the axis of most numbers."""
    asked = {run.shown.get("x") for run in runs} - {None}
    for axis in axes:
        if axis in asked:
            return axis
    open_axes = [axis for axis in axes if axis != SEED]

    def numbers(axis: str) -> int:
        values = {run.config.get(axis) for run in runs if _number(run.config.get(axis))}
        return len(values)

    return max(open_axes, key=numbers, default=None)


def points_of(runs: Sequence[RunRecord], axes: Sequence[str]) -> list[Point]:
    """Finished runs grouped by every axis but the seed, in the order of `runs`."""
    keys = [axis for axis in axes if axis != SEED]
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        if run.status == FINISHED:
            place = json.dumps([run.config.get(key) for key in keys])
            groups.setdefault(place, []).append(run)
    points = []
    for members in groups.values():
        mean, std = {}, {}
        for figure in FIGURES:
            known = [v for run in members if (v := run.figures[figure]) is not None]
            if len(known) == len(members):
                mean[figure] = statistics.fmean(known)
                if len(known) > 1:
                    std[figure] = statistics.stdev(known)
        values = {key: members[0].config.get(key) for key in keys}
        points.append(Point(values, len(members), mean, std))
    return points


def as_json(sweep: Sweep) -> dict[str, Any]:
    """What sweep.json holds."""
    return {
        "schema": SCHEMA,
        "axes": sweep.axes,
        "x": sweep.x,
        "counts": {status: sweep.count(status) for status in (FINISHED, FAILED, UNFINISHED)},
        "points": [
            {"values": p.values, "runs": p.runs, "mean": p.mean, "std": p.std} for p in sweep.points
        ],
        "runs": [
            {
                "run": str(run.path.relative_to(sweep.folder)),
                "status": run.status,
                "values": sweep.values(run),
                "figures": run.figures,
                "error": run.error,
            }
            for run in sweep.runs
        ],
    }


def as_csv(sweep: Sweep) -> str:
    """One line a run: its folder, status, place on every axis, figures, error."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "status", *sweep.axes, *FIGURES, "error"])
    for run in sweep.runs:
        places = [_cell(value) for value in sweep.values(run).values()]
        figures = [_cell(run.figures.get(figure)) for figure in FIGURES]
        path = run.path.relative_to(sweep.folder)
        writer.writerow([path, run.status, *places, *figures, run.error or ""])
    return text.getvalue()


def write(sweep: Sweep) -> None:
    """sweep.json and sweep.csv into the sweep's folder."""
    write_json(sweep.folder / "sweep.json", as_json(sweep))
    write_bytes(sweep.folder / "sweep.csv", as_csv(sweep).encode())


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(value: Any) -> tuple[int, float, str]:
    """Nothing first, then numbers by size, then the rest by its text."""
    if value is None:
        return 0, 0.0, ""
    return (1, float(value), "") if _number(value) else (2, 0.0, json.dumps(value))
