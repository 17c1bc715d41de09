"""The page's tables as plain HTML, what stays where no script runs, and as rows for loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from halut.analysis.variants import variants
from halut.page.columns import as_rows
from halut.page.runs import site_rows

LIMIT = 2000
"""Rows of a plain table; a line below says how many there are."""
HEADLINE = {
    "label": "network",
    "accuracy": "test accuracy in %",
    "accuracy_std": "deviation",
    "lost": "points lost",
    "lost_std": "deviation",
    "seeds": "seeds",
    "bytes": "bytes",
    "operations": "operations",
    "bops": "bit operations",
    "energy": "energy in J",
    "command": "command",
}
SITES = {
    "name": "site",
    "operator": "operator",
    "C": "C",
    "V": "V",
    "K": "K",
    "bits": "bits",
    "bytes": "bytes",
    "exact_bytes": "exact bytes",
    "normalized_mse": "normalized error",
    "lost_alone": "points lost alone",
    "code_perplexity": "code perplexity",
    "dead_prototypes": "dead codes",
    "clipping_rate": "clipping rate",
    "reason": "reason kept",
}
VARIANTS = {
    "variant": "network",
    "val_accuracy": "validation accuracy in %",
    "test_accuracy": "test accuracy in %",
    "bytes": "bytes",
    "operations": "operations",
    "bops": "bit operations",
    "energy": "energy in J",
}
STAGES = {
    "stage": "stage",
    "sites": "replaced",
    "val_accuracy_before": "before",
    "val_accuracy_after_swap": "after swap",
    "val_accuracy_after_training": "after training",
}
PLANS = {
    "label": "plan",
    "operators": "sites",
    "accuracy": "validation accuracy in %",
    "lost": "points lost",
    "rise": "rise of the loss",
    "predicted": "predicted",
    "corrected": "predicted, corrected",
    "bytes": "bytes",
    "operations": "operations",
    "bops": "bit operations",
    "energy": "energy in J",
    "latency": "latency in s",
    "command": "command",
}
TRIALS = {
    "label": "trial",
    "state": "state",
    "value": "objective",
    "parameters": "parameters",
    "bytes": "bytes",
    "seconds": "seconds",
    "reason": "reason",
    "command": "command",
}
CHOSEN = {
    "label": "trial",
    "val_accuracy": "validation accuracy in %",
    "test_accuracy": "test accuracy in %",
    "bytes": "bytes",
    "parameters": "parameters",
    "command": "command",
}
Table = tuple[list[str], list[list[Any]]]
"""Titles of the columns, and the rows."""

RECORDS = {
    "kind": "kind",
    "subject": "network",
    "site": "site",
    "option": "operator",
    "variant": "variant",
    "calibration": "calibration",
    "seed": "seed",
    "score": "score",
    "not_finite": "not finite",
    "reason": "not measured, as",
}


def plain_tables(page: Mapping[str, Any]) -> str:
    """All tables of a page in HTML; every text of it is escaped."""
    parts = [_table("Networks", as_rows(page["headline"]), HEADLINE)]
    for run in page["runs"]:
        parts.append(_table(f"Sites of {run['name']}", run["sites"], SITES))
    for search in page["searches"]:
        parts += _search_tables(search)
    records = as_rows(page["records"])
    known = {*RECORDS, "model", "weights", "data", "split", "samples", "operator", "C", "V", "K"}
    known |= {"bits", "settings", "asked", "site_kind", "command", "run", "time", "stage", "family"}
    figures = {name: name for name in page["records"]["columns"] if name not in known}
    parts.append(_table("Records", records, {**RECORDS, **figures}))
    return "\n".join(part for part in parts if part)


def _search_tables(search: Mapping[str, Any]) -> list[str]:
    name = search["name"]
    if search["kind"] == "budget":
        return [_table(f"Plans of search {name}", as_rows(search["plans"]), PLANS)]
    costs = {key: each["title"] for key, each in search["minimize"].items()}
    trials = {**TRIALS, "value": search["objective"], **costs}
    return [
        _table(f"Chosen trials of search {name}", as_rows(search["chosen"]), CHOSEN),
        _table(f"Trials of search {name}", as_rows(search["trials"]), trials),
    ]


def _table(title: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    if not rows:
        return ""
    columns = {k: v for k, v in columns.items() if any(row.get(k) is not None for row in rows)}
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns.values())
    lines = [
        "<tr>" + "".join(f"<td>{escape(text(row.get(key)))}</td>" for key in columns) + "</tr>"
        for row in rows[:LIMIT]
    ]
    more = (
        f"<p>{LIMIT:,} of {len(rows):,} rows; the store has them all.</p>" if rows[LIMIT:] else ""
    )
    return (
        f'<h2>{escape(title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{more}"
    )


def text(value: Any) -> str:
    """A cell: whole numbers with separators, others with at most five digits."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.5g}"


def run_tables(report: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Table]:
    """networks, stages and sites of a report and a plan.json; None where nothing is known."""
    stages = [
        {**stage, "stage": index, "sites": ", ".join(stage["sites"])}
        for index, stage in enumerate(report.get("stages", []))
    ]
    return {
        "networks": _rows(variants(report), VARIANTS),
        "stages": _rows(stages, STAGES),
        "sites": _rows(site_rows(plan, report), SITES),
    }


def _rows(rows: list[dict[str, Any]], columns: Mapping[str, str]) -> Table:
    return list(columns.values()), [[row.get(key) for key in columns] for row in rows]
