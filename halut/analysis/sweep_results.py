"""Table of a sweep's runs: their differing options and their figures, averaged over seeds."""

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
    is_number,
    read_run,
    run_folders,
)
from halut.errors import HalutError
from halut.io import write_bytes, write_json

SCHEMA = 1
SEED = "seed"
NOT_AXES = (
    *("run_dir", "logger.", "debug.", "data.root", "data.workers", "data.download", "base.cache"),
    *("trainer.threads", "trainer.enable_progress_bar", "trainer.checkpoint_", "trainer.requeue"),
    *("trainer.max_requeues", "results", "test", "search."),
)
"""Keys that say where and how a run is kept: no axis."""
MAX_AXES = 5
"""Axes a table shows, and that make curves; of runs that have little in common the most telling."""


@dataclass(frozen=True)
class Point:
    """Finished runs that differ in their seed alone: `mean`, and sample `std` from two runs on.

    `first` is the folder of the first of them.
    """

    values: dict[str, Any]
    runs: int
    first: Path
    mean: dict[str, float]
    std: dict[str, float]


@dataclass(frozen=True)
class Sweep:
    """The runs below one folder; `axes` are the keys in which they differ, the seed's included.

    A curve is drawn over `x`, an axis or a figure, one for all places on the axes `lines`.
    `columns` are the axes that a table has: all but the seed's, unless there are too many.
    """

    folder: Path
    axes: list[str]
    runs: list[RunRecord]
    points: list[Point]
    x: str | None
    lines: list[str]
    columns: list[str]

    def count(self, status: str) -> int:
        """Runs of that status."""
        return sum(run.status == status for run in self.runs)

    @property
    def words(self) -> dict[str, str]:
        """What the configuration calls an axis (KEY) or a value of it (KEY=VALUE)."""
        every = (run.display.get("words") for run in self.runs)
        vocabularies = [words for words in every if isinstance(words, dict)]
        return {key: str(word) for words in vocabularies for key, word in words.items()}

    def word(self, axis: str, value: Any) -> str:
        """A value of an axis as it is shown."""
        text = value if isinstance(value, str) else json.dumps(value)
        return self.words.get(f"{axis}={text}", text)

    def name(self, path: Path) -> str:
        """A run's folder as it is shown, below the sweep's; bytes that are no text are escaped."""
        text = str(path.relative_to(self.folder))
        return text.encode("utf-8", "backslashreplace").decode()

    def values(self, run: RunRecord) -> dict[str, Any]:
        """The run's place on every axis."""
        return {axis: run.config.get(axis) for axis in self.axes}


def gather(folder: Path | str, x: str | None = None) -> Sweep:
    """Read every run folder at or below `folder`; damaged ones count as failed.

    `x`: what curves are drawn over (None: as the runs' sweep.x has it). Raises HalutError if there
    is no run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise HalutError(f"{folder}: no such folder")
    runs = [read_run(path) for path in run_folders(folder)]
    if not runs:
        raise HalutError(f"{folder} holds no run folder (none has a run's config.json)")
    configs = [run.config for run in runs if run.config]
    axes = axes_of(configs)
    x = x or x_axis_option(runs, axes)
    over = x if x in axes else most_numbers(runs, axes)  # what differs along a curve
    ordered = [axis for axis in axes if axis not in (over, SEED)]
    axes = ordered + [axis for axis in (over, SEED) if axis in axes]
    runs = sorted(runs, key=lambda run: [_order(run.config.get(axis)) for axis in axes])
    columns = telling(configs, [axis for axis in axes if axis != SEED], over)
    lines = [a for a in columns if a != over and (_group(a) or not decides(configs, over or "", a))]
    return Sweep(folder, axes, runs, points_of(runs, axes), x or over, lines, columns)


def tells(sweep: Sweep, name: str, axis: bool = True) -> bool:
    """True if `name` is a figure that some point has, or, with `axis`, an axis."""
    return (axis and name in sweep.axes) or any(name in point.mean for point in sweep.points)


def axes_of(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Keys whose values differ; options that a group's name alone decides are no axes."""
    keys = sorted({key for config in configs for key in config if not key.startswith(NOT_AXES)})
    axes = []
    for key in keys:
        if len({json.dumps(config.get(key), sort_keys=True) for config in configs}) < 2:
            continue
        name = f"{key.split('.')[0]}.name"
        if key == name or not decides(configs, name, key):
            axes.append(key)
    return axes


def decides(configs: Sequence[dict[str, Any]], cause: str, key: str) -> bool:
    """True if `cause` differs among configs, and runs that agree in it agree in `key`."""
    values: dict[str, set[str]] = {}
    for config in configs:
        place, value = (json.dumps(config.get(k), sort_keys=True) for k in (cause, key))
        values.setdefault(place, set()).add(value)
    return len(values) > 1 and all(len(each) == 1 for each in values.values())


def x_axis_option(runs: Sequence[RunRecord], axes: Sequence[str]) -> str | None:
    """The configurations' sweep.x: an axis, or else a figure that runs have; None for neither."""
    options = list(dict.fromkeys(x for run in runs if isinstance(x := run.display.get("x"), str)))
    for axis in axes:
        if axis in options:
            return axis
    return next((x for x in options if any(x in run.figures for run in runs)), None)


def most_numbers(runs: Sequence[RunRecord], axes: Sequence[str]) -> str | None:
    """The axis with most numbers, the seed's apart."""

    def numbers(axis: str) -> int:
        return len({v for run in runs if is_number(v := run.config.get(axis))})

    return max((axis for axis in axes if axis != SEED), key=numbers, default=None)


def telling(
    configs: Sequence[dict[str, Any]], axes: Sequence[str], over: str | None = None
) -> list[str]:
    """At most MOST_AXES of `axes`, in their order; `over` is one of them.

    Of too many those go that the groups' names (model.name, ...) decide together, those that one
    that stays decides, and then those with fewest values.
    """
    axes_left = list(axes)
    names = [axis for axis in axes if axis.endswith(".name") or axis == over]
    if len(axes_left) > MAX_AXES:
        joint = [{**c, "names": [c.get(name) for name in names]} for c in configs]
        axes_left = [a for a in axes_left if a in names or not decides(joint, "names", a)]
    if len(axes_left) > MAX_AXES:
        for axis in list(axes_left):
            others = [other for other in axes_left if other != axis]
            if axis != over and any(decides(configs, other, axis) for other in others):
                axes_left = others
    if len(axes_left) > MAX_AXES:
        values = {
            a: len({json.dumps(c.get(a), sort_keys=True) for c in configs}) for a in axes_left
        }
        important = sorted(axes_left, key=lambda a: (a not in names, -values[a]))[:MAX_AXES]
        axes_left = [axis for axis in axes_left if axis in important]
    return axes_left


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
        for figure in {key: None for run in members for key in run.figures}:
            samples = [v for run in members if (v := run.figures.get(figure)) is not None]
            if len(samples) == len(members):
                mean[figure] = statistics.fmean(samples)
                if len(samples) > 1:
                    std[figure] = statistics.stdev(samples)
        values = {key: members[0].config.get(key) for key in keys}
        points.append(Point(values, len(members), members[0].path, mean, std))
    return points


def as_json(sweep: Sweep) -> dict[str, Any]:
    """What sweep.json holds."""
    return {
        "schema": SCHEMA,
        "axes": sweep.axes,
        "x": sweep.x,
        "counts": {status: sweep.count(status) for status in (FINISHED, FAILED, UNFINISHED)},
        "points": [
            {"values": p.values, "runs": p.runs, "mean": _known(p.mean), "std": _known(p.std)}
            for p in sweep.points
        ],
        "runs": [
            {
                "run": sweep.name(run.path),
                "status": run.status,
                "values": sweep.values(run),
                "figures": _known(run.figures),
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
        writer.writerow([sweep.name(run.path), run.status, *places, *figures, run.error or ""])
    return text.getvalue()


def write(sweep: Sweep) -> None:
    """sweep.json and sweep.csv into the sweep's folder."""
    write_json(sweep.folder / "sweep.json", as_json(sweep))
    write_bytes(sweep.folder / "sweep.csv", as_csv(sweep).encode())


def _known(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key in FIGURES}


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value)


def _group(axis: str) -> bool:
    """True for the name of a group (model.name): no curve joins what differs in it."""
    return axis.endswith(".name") and axis.count(".") == 1


def _order(value: Any) -> tuple[int, float, str]:
    """Nothing first, then numbers by size, then the rest by its text."""
    if value is None:
        return 0, 0.0, ""
    return (1, float(value), "") if is_number(value) else (2, 0.0, json.dumps(value))
