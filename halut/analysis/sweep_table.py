"""Terminal table of a sweep, with its failed runs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from halut.analysis.run_figures import FAILED, FINISHED, UNFINISHED
from halut.analysis.sweep_results import SEED, Point, Sweep
from halut.analysis.variants import counted

COLUMNS = {
    "test_accuracy": ("test", "{:.2f}"),
    "exact_accuracy": ("exact", "{:.2f}"),
    "baseline_accuracy": ("tuned", "{:.2f}"),
    "int8_accuracy": ("int8", "{:.2f}"),
    "int4_accuracy": ("int4", "{:.2f}"),
    "lost": ("lost", "{:.2f}"),
    "normalized_mse": ("layer error", "{:.2g}"),
    "weight_bits": ("bits w", "{:.3g}"),
    "activation_bits": ("bits x", "{:.3g}"),
    "seconds": ("s", "{:.0f}"),
}
MAX_CELL_WIDTH = 30
MIN_AXIS_WIDTH = 8
COLUMN_LEGEND = {
    "baseline_accuracy": "tuned: the exact network, fine-tuned as long",
    "int8_accuracy": "int8: its replaced layers in 8 bits instead, post-training",
    "int4_accuracy": "int4: with 4-bit weights",
}
SPREAD = (
    "test_accuracy",
    "exact_accuracy",
    "baseline_accuracy",
    "int8_accuracy",
    "int4_accuracy",
    "lost",
)


def sweep_table(sweep: Sweep, width: int | None = None) -> Table:
    """One line for every point: mean and standard deviation over seeds.

    Figures that do not fit `width` columns are left out, the last ones first; runs that differ in
    more axes than the table has are named by their folder.
    """
    columns = [c for c in COLUMNS if any(c in point.mean for point in sweep.points)]
    table = _table(sweep, columns)
    while width is not None and len(columns) > 1 and _narrowest(table) > width:
        columns = columns[:-1]
        table = _table(sweep, columns)
    return table


def _narrowest(table: Table) -> int:
    """Columns that figures take beside at least MIN_AXIS_WIDTH of every axis."""
    fixed = [column for column in table.columns if column.justify == "right"]
    texts = ([str(column.header), *map(str, column.cells)] for column in fixed)
    free = len(table.columns) - len(fixed)
    return sum(max(map(len, t)) + 3 for t in texts) + free * (MIN_AXIS_WIDTH + 3) + 1


def _table(sweep: Sweep, columns: Sequence[str]) -> Table:
    subjects = sorted({run.subject for run in sweep.runs if run.subject})
    seeds = max((point.runs for point in sweep.points), default=0)
    over = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    title = Text(f"{', '.join(subjects) or sweep.folder}: accuracy in percent{over}")
    table = Table(title=title, title_justify="left")
    figures = {figure for point in sweep.points for figure in point.mean}
    words = [text for figure, text in COLUMN_LEGEND.items() if figure in columns]
    hidden = [axis for axis in sweep.axes if axis not in (*sweep.columns, SEED)]
    omitted_titles = [COLUMNS[c][0] for c in COLUMNS if c in figures and c not in columns]
    words += [f"also different, see sweep.csv: {', '.join(hidden)}"] if hidden else []
    words += [f"left out, see sweep.csv: {', '.join(omitted_titles)}"] if omitted_titles else []
    table.caption, table.caption_justify = Text("; ".join(words)) if words else None, "left"
    if hidden:
        table.add_column("run", overflow="fold")
    for axis in sweep.columns:
        longest = max((len(sweep.word(axis, p.values[axis])) for p in sweep.points), default=0)
        header = Text(sweep.words.get(axis, axis))
        table.add_column(header, overflow="fold", no_wrap=longest <= MAX_CELL_WIDTH and not hidden)
    if seeds > 1:
        table.add_column("runs", justify="right")
    for column in columns:
        table.add_column(COLUMNS[column][0], justify="right", no_wrap=True)
    for point in sweep.points:
        head = [Text(sweep.name(point.first))] if hidden else []
        head += [Text(sweep.word(axis, point.values[axis])) for axis in sweep.columns]
        head += [Text(str(point.runs))] if seeds > 1 else []
        table.add_row(*head, *(cell(point, column) for column in columns))
    return table


def cell(point: Point, column: str) -> str:
    """A figure of a point, with its deviation where that says something."""
    if column not in point.mean:
        return ""
    form = COLUMNS[column][1]
    text = form.format(point.mean[column])
    if column in SPREAD and column in point.std:
        text += f" ± {form.format(point.std[column])}"
    return text


def missing_lines(sweep: Sweep) -> list[str]:
    """How many runs there are of each status, and a line for each that is not finished."""
    counts = [
        f"{n} {status}" for status in (FINISHED, FAILED, UNFINISHED) if (n := sweep.count(status))
    ]
    lines = [f"{counted(len(sweep.runs), 'run')}: {', '.join(counts)}"]
    for run in sweep.runs:
        if run.status != FINISHED:
            lines.append(f"{run.status}: {sweep.name(run.path)}: {run.error}")
    return lines
