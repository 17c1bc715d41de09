"""What a study of single sites prints: a table, the agreement of the scores, and a policy rule."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from halut.analysis.sensitivity import rank_correlation
from halut.results.record import Record
from halut.training.logging.progress import console

TITLES = {
    "measured": "accuracy lost in points{exact}, each site replaced alone, not retrained",
    "fisher": "predicted rise of the loss, each site replaced alone",
}
COLUMNS = 8


def show(records: Sequence[Record], tolerance: float) -> None:
    """Print all that the records tell; what could not be measured is named."""
    for score in TITLES:
        if any(record.score == score for record in records):
            for table in score_tables(records, score):
                console.print(table)
    show_lines(remarks(records))
    if any(record.score == "measured" and value_of(record) is not None for record in records):
        rule = suggested_rule(records, tolerance)
        show_lines([rule])


def show_lines(lines: Iterable[str]) -> None:
    """Print lines as they are, each once."""
    for line in dict.fromkeys(lines):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def value_of(record: Record) -> float | None:
    """Points lost, or the predicted rise of the loss; None where it is not finite or not there."""
    figures = record.figures
    if record.not_finite or not figures:
        return None
    if record.score == "measured":
        return figures.get("lost")
    first, second = figures.get("first_order"), figures.get("second_order")
    return None if first is None or second is None else first + second


def label_of(record: Record) -> str:
    """The option as it was asked for."""
    return str(record.detail.get("label") or record.operator)


def score_tables(records: Sequence[Record], score: str) -> list[Table]:
    """Sites by options, the most sensitive site first; COLUMNS options in a table."""
    cells = {(r.site, label_of(r)): r for r in records if r.score in (score, None)}
    labels = list(dict.fromkeys(label for _, label in cells))
    names = dict.fromkeys(site for site, _ in cells)
    sites = sorted(names, key=lambda site: -_mean(cells, site))
    tables = []
    for start in range(0, len(labels), COLUMNS):
        part = labels[start : start + COLUMNS]
        title = TITLES[score].format(exact=_exact(records))
        table = Table(title=title, title_justify="left")
        table.add_column("site", no_wrap=True)
        for label in part:
            table.add_column(label, justify="right", overflow="fold")
        for site in sites:
            table.add_row(str(site), *(_cell(cells.get((site, label))) for label in part))
        tables.append(table)
    return tables


def _exact(records: Sequence[Record]) -> str:
    """The accuracy that points are lost of, where the records agree in it."""
    both = [(r.figures.get("accuracy"), value_of(r)) for r in records if r.score == "measured"]
    sums = {f"{a + lost:.2f}" for a, lost in both if a is not None and lost is not None}
    return f" of {sums.pop()}" if len(sums) == 1 else ""


def _mean(cells: dict[tuple[str | None, str], Record], site: str | None) -> float:
    values = [value_of(record) for (name, _), record in cells.items() if name == site]
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else -math.inf


def _cell(record: Record | None) -> str:
    if record is None:
        return ""
    if not record.figures:
        return "-"
    value = value_of(record)
    if value is None:
        return "NaN"
    return f"{value:+.2f}" if record.score == "measured" else f"{value:+.4f}"


def remarks(records: Sequence[Record]) -> list[str]:
    """What cannot be at a site, what is not finite, and how far the two scores agree."""
    refused: dict[tuple[str, str], list[str]] = {}
    for r in records:
        if reason := r.detail.get("reason"):
            refused.setdefault((label_of(r), str(reason)), []).append(str(r.site))
    lines = [
        f"- {', '.join(dict.fromkeys(sites))}, {label}: {reason}"
        for (label, reason), sites in refused.items()
    ]
    lines += [line for r in records if (line := fewer_rows(r)) is not None]
    lines += [
        f"NaN or infinite: {r.site}, {label_of(r)}: {', '.join(r.not_finite)} ({r.score})"
        for r in records
        if r.not_finite
    ]
    fisher = {(r.site, label_of(r)): value_of(r) for r in records if r.score == "fisher"}
    pairs = [
        (lost, predicted, r.figures["loss"])
        for r in records
        if r.score == "measured"
        and (lost := value_of(r)) is not None
        and (predicted := fisher.get((r.site, label_of(r)))) is not None
    ]
    if len(pairs) > 1:
        points, rises, losses = (list(column) for column in zip(*pairs, strict=True))
        lines.append(
            f"Spearman's rank correlation of the predicted rise over {len(pairs)} measurements: "
            f"{rank_correlation(points, rises):.3f} with the accuracy lost, "
            f"{rank_correlation(losses, rises):.3f} with the loss"
        )
    return lines


def fewer_rows(record: Record) -> str | None:
    """That a site learned from fewer rows than were asked for and were there, if it did."""
    asked, taken = record.settings.get("rows"), record.figures.get("calibration_rows")
    rows = record.detail.get("shape", {}).get("rows")
    if not (asked and taken and rows and record.calibration):
        return None
    if taken >= min(asked, rows * record.calibration):
        return None
    return (
        f"{record.site}: learned from {taken:,} rows, not {asked:,}: more do not fit "
        "capture.memory_gib"
    )


def suggested_rule(records: Sequence[Record], tolerance: float) -> str:
    """policy.rules in YAML: of each site the option of the fewest bytes that loses at most
    `tolerance` points alone, or keep."""
    by_site: dict[str, list[Record]] = {}
    for record in records:
        if record.score == "measured" and record.site is not None:
            by_site.setdefault(record.site, []).append(record)
    lines = [
        f"# of each site the option of the fewest bytes that loses at most {tolerance:g} points",
        "policy:",
        "  rules:",
    ]
    for site, every in by_site.items():
        values = {id(r): value for r in every if (value := value_of(r)) is not None}
        fitting = [r for r in every if values.get(id(r), math.inf) <= tolerance]
        if fitting:
            best = min(fitting, key=lambda r: (r.figures["bytes"] or 0, values[id(r)]))
            lines.append(f"    - {{name: {site}, {_operator(best)}}}  # {values[id(best)]:+.2f}")
        else:
            least = f"  # {min(values.values()):+.2f} at best" if values else ""
            lines.append(f"    - {{name: {site}, operator: keep}}{least}")
    return "\n".join(lines)


def _operator(record: Record) -> str:
    """operator and options of a rule."""
    options = record.detail.get("asked") or {}
    return f"operator: {record.operator}" + (f", options: {_flow(options)}" if options else "")


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    if isinstance(value, Mapping):
        pairs = (f"{key}: {_flow(each)}" for key, each in value.items() if each is not None)
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
