"""Plot of a sweep: one curve per configuration, the exact network as a horizontal line."""

from __future__ import annotations

import io
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halut.analysis.run_figures import FIGURES, FINISHED, choices, is_number
from halut.analysis.sweep_results import SEED, Point, Sweep, tells
from halut.errors import HalutError
from halut.io import write_bytes

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#4d4d4d")
MARKERS = "osD^vPX*"
EXACT = {
    "exact_accuracy": ("exact network", "-"),
    "baseline_accuracy": ("exact, fine-tuned as long", "--"),
}
MISSING = "no picture without matplotlib: pip install 'halut[plot]'; the table is complete without"


FORMATS = ("png", "svg", "pdf")
MAX_LABEL_WIDTH = 42
"""Characters of a label that a legend of two columns has room for."""


def check_picture(option: str, name: Path | str) -> None:
    """Raise HalutError unless the file's suffix is that of a format."""
    if Path(name).suffix.lower().lstrip(".") not in FORMATS:
        formats = ", ".join(f".{suffix}" for suffix in FORMATS)
        raise HalutError(f"{option}={name}: a picture's name ends in one of: {formats}")


def draw(sweep: Sweep, path: Path, y: str | None = None) -> None:
    """Write the sweep's picture to `path`, in the format of its suffix: PNG, SVG or PDF.

    `y` (None: the configuration's sweep.y, or test accuracy) over the sweep's x, means with
    standard deviations over seeds; the legend lies below. Raises HalutError without matplotlib,
    for another suffix, or where no run tells x and y.
    """
    check_picture("picture", path)
    save(figure(sweep, y), path)


def save(picture: Any, path: Path) -> None:
    """Write a matplotlib figure in the format of the path's suffix."""
    content = io.BytesIO()
    picture.savefig(content, format=path.suffix.lower().lstrip("."))
    write_bytes(path, content.getvalue())


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, inches by inches; HalutError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise HalutError(MISSING) from error
    picture = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(picture)
    return picture


def figure(sweep: Sweep, y: str | None = None) -> Any:
    """The picture as a matplotlib figure."""
    picture = new_figure(8, 5)
    if sweep.x is None or not sweep.points:
        raise HalutError(f"{sweep.folder}: no picture of runs that differ in nothing but the seed")
    y = y or shown_y(sweep)
    for option, name in (("x", sweep.x), ("y", y)):
        if not tells(sweep, name, option == "x"):
            options = ", ".join(sweep.columns)
            raise HalutError(f"no picture: no run tells {option}={name}; choose {choices(options)}")
    axes = picture.add_subplot()
    places, numbers = positions(sweep)
    _curves(axes, sweep, y, places, joined=numbers)
    if y == "test_accuracy":
        _exact(axes, sweep)
    if sweep.x in sweep.axes:
        axes.set_xticks(list(places.values()), [sweep.word(sweep.x, value) for value in places])
    if not numbers:
        axes.tick_params(axis="x", labelrotation=30)
    axes.set_xlabel(sweep.words.get(sweep.x, FIGURES.get(sweep.x, sweep.x)))
    axes.set_ylabel(FIGURES.get(y, y))
    subjects = sorted({run.subject for run in sweep.runs if run.subject})
    axes.set_title(textwrap.fill(", ".join(subjects), 80))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(picture, axes)
    return picture


def shown_y(sweep: Sweep) -> str:
    """The configurations' sweep.y, test accuracy where they have none."""
    every = (run.display.get("y") for run in sweep.runs)
    return next((y for y in every if isinstance(y, str)), "test_accuracy")


def shown_picture(sweep: Sweep) -> str:
    """The configurations' sweep.picture, curve.png where they have none."""
    every = (run.display.get("picture") for run in sweep.runs)
    return next((name for name in every if isinstance(name, str)), "curve.png")


def _legend(picture: Any, axes: Any) -> None:
    """Below the plot, which keeps its height."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 1 if max(map(len, labels)) > MAX_LABEL_WIDTH else 2
    labels = [textwrap.fill(label, 2 * MAX_LABEL_WIDTH // columns) for label in labels]
    lines = sum(label.count("\n") + 1 for label in labels)
    width, height = picture.get_size_inches()
    picture.set_size_inches(width, height + 0.22 * -(-lines // columns))
    picture.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def positions(sweep: Sweep) -> tuple[dict[Any, float], bool]:
    """Where each value of the axis x lies, and whether it is a number and lies at itself.

    What is not a number lies where it comes in order.
    """
    values = list(dict.fromkeys(_x(sweep, point) for point in sweep.points if _has_x(sweep, point)))
    if all(is_number(value) for value in values):
        return {value: float(value) for value in values}, True
    return {value: float(index) for index, value in enumerate(values)}, False


def curves(sweep: Sweep) -> dict[str, list[Point]]:
    """The points of every curve by what the legend says of it."""
    by_label: dict[str, list[Point]] = {}
    for point in sweep.points:
        words = []
        for axis in sweep.lines:
            word = sweep.word(axis, point.values[axis])
            is_word = word in sweep.words.values()
            words.append(word if is_word else f"{sweep.words.get(axis, axis)} {word}")
        by_label.setdefault(", ".join(words), []).append(point)
    return by_label


def _curves(axes: Any, sweep: Sweep, y: str, places: dict[Any, float], joined: bool) -> None:
    for index, (label, points) in enumerate(curves(sweep).items()):
        visible = [point for point in points if y in point.mean and _has_x(sweep, point)]
        visible.sort(key=lambda point: places[_x(sweep, point)])
        if not visible:
            continue
        axes.errorbar(
            [places[_x(sweep, point)] for point in visible],
            [point.mean[y] for point in visible],
            yerr=_spread(visible, y),
            xerr=_spread(visible, sweep.x or ""),
            label=label or "replaced",
            color=COLORS[index % len(COLORS)],
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
    by_seed: dict[Any, set[float]] = {}
    for run in sweep.runs:
        value = run.figures.get(figure) if run.status == FINISHED else None
        if value is not None:
            by_seed.setdefault(run.config.get(SEED), set()).add(round(value, 6))
    if any(len(values) > 1 for values in by_seed.values()):
        return []
    return [value for values in by_seed.values() for value in values]


def _spread(points: Sequence[Point], figure: str) -> list[float] | None:
    """Deviations of a figure; None where there are none."""
    deviations = [point.std.get(figure, 0.0) for point in points]
    return deviations if any(deviations) else None


def _has_x(sweep: Sweep, point: Point) -> bool:
    return sweep.x in sweep.axes or sweep.x in point.mean


def _x(sweep: Sweep, point: Point) -> Any:
    assert sweep.x is not None
    if sweep.x not in sweep.axes:
        return point.mean[sweep.x]
    value = point.values[sweep.x]
    return value if isinstance(value, int | float | str | None) else str(value)
