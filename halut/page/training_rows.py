"""Rows of the charts of stages and curves, of every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from halut.page.charts import PHASES

KEYS = ("val_accuracy_before", "val_accuracy_after_swap", "val_accuracy_after_training")


def stage_rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """{"run", "stage", "phase", "accuracy", "sites"}, three for every stage of every run."""
    return [
        {
            "run": run["name"],
            "stage": f"{index:02d}",
            "phase": phase,
            "accuracy": stage[key],
            "sites": ", ".join(map(str, stage.get("sites", []))),
        }
        for run in runs
        for index, stage in enumerate(run["stages"])
        for key, phase in zip(KEYS, PHASES, strict=True)
        if stage.get(key) is not None
    ]


def curve_rows(runs: Sequence[Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
    """{"run", "step", "value"} of one key, and {"run", "border", "stage"} where stages begin."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        curve = run["curves"].get(key)
        if curve is None:
            continue
        points = zip(curve["step"], curve["value"], strict=True)
        rows += [{"run": run["name"], "step": s, "value": v} for s, v in points]
        rows += [
            {"run": run["name"], "border": border["step"], "stage": border["stage"]}
            for border in run["borders"]
        ]
    return rows
