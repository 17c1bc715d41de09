"""Variants of a run's network, one row each: accuracies, bytes and operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halut.analysis.network_cost import operations

FLOAT = 32
COLUMNS = ("validation", "test", "bytes", "operations", "bit ops")


def variants(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The exact network, the fine-tuned one, INT8, INT4, ... and the run's own, as far as they are.

    Each {"variant", "val_accuracy", "test_accuracy", "bytes", "operations", "bops"}: accuracies in
    percent, bytes of all parameters and buffers, operations and bit operations of one sample.
    None where a report, of an earlier version perhaps, does not tell.
    """
    cost, memory = report.get("cost", {}), report.get("memory", {})
    before = memory.get("before", {}).get("total")
    macs = cost.get("exact", {}).get("macs")
    bops = None if macs is None else FLOAT * FLOAT * macs
    base, baseline = report.get("base", {}), report.get("baseline", {})
    rows = [_row("exact", base, before, macs, bops)]
    if baseline.get("test_accuracy") is not None:
        rows.append(_row("exact, fine-tuned", baseline, before, macs, bops))
    for name, entry in report.get("ptq", {}).items():
        total_bytes = narrow = None
        if before is not None and "exact_bytes" in entry:
            total_bytes = before - entry["exact_bytes"] + entry["bytes"]
        if bops is not None and "macs" in entry:
            width = entry["weight_bits"] * entry["activation_bits"]
            narrow = bops + (width - FLOAT * FLOAT) * entry["macs"]
        rows.append(_row(name.upper(), entry, total_bytes, macs, narrow))
    sites = report.get("sites", [])
    names = list(dict.fromkeys(site["operator"] for site in sites if "operator" in site))
    ours = f"ours ({', '.join(names)})" if names else "ours"
    replaced = cost.get("replaced", {})
    total = operations(replaced) if "lookups" in replaced else None
    after, bits = memory.get("after", {}).get("total"), cost.get("bits", {}).get("bops")
    return [*rows, _row(ours, report.get("final", {}), after, total, bits)]


def variant_cells(row: Mapping[str, Any]) -> list[str]:
    """A row's COLUMNS as text; operations with three digits and a prefix: "4.09 G"."""
    accuracies = (row["val_accuracy"], row["test_accuracy"])
    total_bytes = row["bytes"]
    return [
        *("" if value is None else f"{value:.2f}" for value in accuracies),
        "" if total_bytes is None else f"{total_bytes:,}",
        *("" if row[key] is None else prefixed(row[key]) for key in ("operations", "bops")),
    ]


def prefixed(count: float) -> str:
    """Three digits and a metric prefix: 999, 1.23 k, 45.6 M."""
    prefixes = ["", " k", " M", " G", " T", " P"]
    while count >= 999.5 and len(prefixes) > 1:
        count, prefixes = count / 1000, prefixes[1:]
    return f"{count:.3g}{prefixes[0]}"


def _row(
    name: str,
    accuracies: Mapping[str, Any],
    total_bytes: int | None,
    operations: int | None,
    bops: float | None,
) -> dict[str, Any]:
    row_accuracies = {key: accuracies.get(key) for key in ("val_accuracy", "test_accuracy")}
    return {
        "variant": name,
        **row_accuracies,
        "bytes": total_bytes,
        "operations": operations,
        "bops": bops,
    }
