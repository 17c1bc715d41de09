"""A sweep as a picture: one curve for every line of it, the exact network as a horizontal one."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halut.analysis.run_figures import FIGURES, FINISHED
from halut.analysis.sweep import SEED, Point, Sweep
from halut.errors import HalutError
from halut.files import write_bytes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#4d4d4d")
MARKERS = "osD^vPX*"
EXACT = {
    "exact_accuracy": ("exact network", "-"),
    "baseline_accuracy": ("exact, fine-tuned as long", "--"),
}
MISSING = "no picture without matplotlib: pip install 'halut[plot]'; the table is complete without"


def draw(sweep: Sweep, path: Path) -> None:
    """Write the sweep's picture, a PNG of 1200 x 750, to `path`.

    Test accuracy (or the figure the configuration's sweep.y names) over the axis x, means with
    standard deviations over seeds. Raises HalutError without matplotlib, or without an axis.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise HalutError(MISSING) from error
    if sweep.x is None or not sweep.points:
        raise HalutError(f"{sweep.folder}: no picture of runs that differ in nothing but the seed")
    y = next((run.shown["y"] for run in sweep.runs if run.shown.get("y")), "test_accuracy")
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places, numbers = positions(sweep)
    _curves(axes, sweep, y, places, joined=numbers)
    if y == "test_accuracy":
        _exact(axes, sweep)
    axes.set_xticks(list(places.values()), [sweep.word(sweep.x, value) for value in places])
    if not numbers:
        axes.tick_params(axis="x", labelrotation=30)
    axes.set_xlabel(sweep.words.get(sweep.x, sweep.x))
    axes.set_ylabel(FIGURES[y])
    axes.set_title(", ".join(sorted({run.subject for run in sweep.runs if run.subject})))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_bytes(path, content.getvalue())


def positions(sweep: Sweep) -> tuple[dict[Any, float], bool]:
    """Where each value of the axis x lies, and whether it is a number and lies at itself.

    What is not a number lies where it comes in order.
    """
    values = list(dict.fromkeys(_x(sweep, point) for point in sweep.points))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return {value: float(value) for value in values}, True
    return {value: float(index) for index, value in enumerate(values)}, False


def curves(sweep: Sweep) -> dict[str, list[Point]]:
    """The points of every curve by what the legend says of it."""
    found: dict[str, list[Point]] = {}
    for point in sweep.points:
        words = []
        for axis in sweep.lines:
            word = sweep.word(axis, point.values[axis])
            named = word in sweep.words.values()
            words.append(word if named else f"{sweep.words.get(axis, axis)} {word}")
        found.setdefault(", ".join(words), []).append(point)
    return found


def _curves(axes: Any, sweep: Sweep, y: str, places: dict[Any, float], joined: bool) -> None:
    for index, (label, points) in enumerate(curves(sweep).items()):
        drawn = [point for point in points if y in point.mean]
        axes.errorbar(
            [places[_x(sweep, point)] for point in drawn],
            [point.mean[y] for point in drawn],
            yerr=[point.std.get(y, 0.0) for point in drawn] if any(p.std for p in drawn) else None,
            label=label or "replaced",
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            linestyle="-" if joined else "none",
            markersize=5,
            capsize=3,
        )


def _exact(axes: Any, sweep: Sweep) -> None:
    """Horizontal lines where all runs of one seed have the same exact network."""
    for figure, (label, style) in EXACT.items():
        values = one_per_seed(sweep, figure)
        if not values:
            continue
        mean = statistics.fmean(values)
        axes.axhline(mean, color="black", linestyle=style, linewidth=1, label=label)
        if len(values) > 1:
            std = statistics.stdev(values)
            axes.axhspan(mean - std, mean + std, color="black", alpha=0.08, linewidth=0)


def one_per_seed(sweep: Sweep, figure: str) -> Sequence[float]:
    """The figure of every seed; nothing if runs of one seed disagree."""
    found: dict[Any, set[float]] = {}
    for run in sweep.runs:
        value = run.figures.get(figure) if run.status == FINISHED else None
        if value is not None:
            found.setdefault(run.config.get(SEED), set()).add(round(value, 6))
    if any(len(values) > 1 for values in found.values()):
        return []
    return [value for values in found.values() for value in values]


def _x(sweep: Sweep, point: Point) -> Any:
    value = point.values[sweep.x or ""]
    return value if isinstance(value, int | float | str | None) else str(value)
