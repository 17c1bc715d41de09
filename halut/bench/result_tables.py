"""Terminal tables of benchmark results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from halut.bench.suites import Case

MORE = {"replay_us": "in a graph", "floor_us": "floor"}
"""Columns of results on a GPU: times without launching, and the least there can be."""


def results_table(results: Sequence[dict[str, Any]]) -> Table:
    """Every method's time, and how many times it takes ours of the same shape and process."""
    table = Table(title="times of one call, microseconds", title_justify="left")
    table.add_column("case", overflow="fold")
    more = [key for key in MORE if any(row.get(key) is not None for row in results)]
    columns = ["threads", "isa", "method", "median", "spread", *(MORE[key] for key in more)]
    for column in (*columns, "over ours"):
        table.add_column(column, justify="left" if column in ("isa", "method") else "right")
    for (name, threads, isa), rows in _grouped(results).items():
        ours = next((r["median_us"] for r in rows if r["method"] == "ours"), None)
        for i, row in enumerate(rows):
            head = (name, str(threads), isa) if i == 0 else ("", "", "")
            over = (
                "" if ours is None or row["method"] == "ours" else f"{row['median_us'] / ours:.2f}"
            )
            times = f"{row['median_us']:,.1f}", f"{100 * row['spread']:.0f} %"
            others = ("" if row.get(key) is None else f"{row[key]:,.1f}" for key in more)
            cells = (*head, row["method"], *times, *others, over)
            table.add_row(*cells, end_section=i == len(rows) - 1)
    return table


def summary_table(summary: dict[str, Any]) -> Table:
    """The ratios by name; one row each."""
    table = Table(title="summary", title_justify="left")
    table.add_column("ratio")
    table.add_column("value", justify="right")
    for key, value in flat(summary):
        table.add_row(key, f"{value:.2f}")
    return table


def flat(summary: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """(dotted name, value) of every number of a nested summary."""
    pairs: list[tuple[str, float]] = []
    for key, value in summary.items():
        if isinstance(value, dict):
            pairs += flat(value, f"{prefix}{key}.")
        elif value is not None:
            pairs.append((prefix + key, value))
    return pairs


def losses(summary: dict[str, Any]) -> list[str]:
    """One line for every ratio that says tables are slower."""
    return [
        f"tables lose: {name} = {value:.2f}"
        for name, value in flat(summary)
        if not name.endswith("_least")
        and (value > 1 if ".over_exact" in name else ".over_" in name and value < 1)
    ]


def _grouped(results: Sequence[dict[str, Any]]) -> dict[tuple[str, int, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in results:
        case = Case(row["op"], row["suite"], row["shape"], row["options"], row["count"])
        groups[case.name, row["threads"], row["isa"]].append(row)
    return groups
