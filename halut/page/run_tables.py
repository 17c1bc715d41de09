"""The tables of one run's page for loggers that show tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halut.analysis.variants import variants
from halut.page.plain import SITES
from halut.page.runs import site_rows

VARIANTS = {
    "variant": "network",
    "val_accuracy": "validation accuracy in %",
    "test_accuracy": "test accuracy in %",
    "bytes": "bytes",
    "operations": "operations",
    "bops": "bit operations",
}
STAGES = {
    "stage": "stage",
    "sites": "replaced",
    "val_accuracy_before": "before",
    "val_accuracy_after_swap": "after swap",
    "val_accuracy_after_training": "after training",
}
Table = tuple[list[str], list[list[Any]]]
"""Titles of the columns, and the rows."""


def run_tables(report: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Table]:
    """networks, stages and sites of a report and a plan.json; None where nothing is known."""
    stages = [
        {**stage, "stage": index, "sites": ", ".join(stage["sites"])}
        for index, stage in enumerate(report.get("stages", []))
    ]
    return {
        "networks": _table(variants(report), VARIANTS),
        "stages": _table(stages, STAGES),
        "sites": _table(site_rows(plan, report), SITES),
    }


def _table(rows: list[dict[str, Any]], columns: Mapping[str, str]) -> Table:
    return list(columns.values()), [[row.get(key) for key in columns] for row in rows]
