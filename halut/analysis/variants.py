"""Variants of a run's network, one row each: accuracies, bytes, operations and energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halut.analysis.energy import in_joules
from halut.analysis.network_cost import operations

FLOAT = 32
COLUMNS = ("val", "test", "bytes", "operations", "bit ops", "energy")
COSTS = ("bytes", "operations", "bops", "weight_bits", "energy")
LARGE = 10_000_000
"""Bytes from which on they are shown with three digits."""


def variants(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The exact network, the fine-tuned one, INT8, INT4, ... and the run's own, as far as they are.

    Each {"variant", "val_accuracy", "test_accuracy", "bytes", "operations", "bops", "weight_bits",
    "energy"}: accuracies in percent, bytes of all parameters and buffers, operations, bit
    operations and joules of one sample. None where a report, of an earlier version perhaps, does
    not tell.
    """
    base, baseline = report.get("base", {}), report.get("baseline", {})
    costs = report.get("cost", {}).get("variants") or _earlier_costs(report)
    rows = [_row("exact", base, costs.get("exact"))]
    if any(baseline.get(f"{split}_accuracy") is not None for split in ("val", "test")):
        rows.append(_row("exact, fine-tuned", baseline, costs.get("exact")))
    for name, entry in report.get("ptq", {}).items():
        rows.append(_row(name.upper(), entry, costs.get(name)))
    sites = report.get("sites", [])
    names = list(dict.fromkeys(site["operator"] for site in sites if "operator" in site))
    ours = f"ours ({', '.join(names)})" if names else "ours"
    return [*rows, _row(ours, report.get("final", {}), costs.get("plan"))]


def _earlier_costs(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """COSTS by variant of a report that has them in other places, as far as it does."""
    cost, memory = report.get("cost", {}), report.get("memory", {})
    before = memory.get("before", {}).get("total")
    macs = cost.get("exact", {}).get("macs")
    bops = None if macs is None else FLOAT * FLOAT * macs
    costs = {"exact": {"bytes": before, "operations": macs, "bops": bops}}
    for name, entry in report.get("ptq", {}).items():
        total_bytes = narrow = None
        if before is not None and "exact_bytes" in entry:
            total_bytes = before - entry["exact_bytes"] + entry["bytes"]
        if bops is not None and "macs" in entry:
            width = entry["weight_bits"] * entry["activation_bits"]
            narrow = bops + (width - FLOAT * FLOAT) * entry["macs"]
        costs[name] = {"bytes": total_bytes, "operations": macs, "bops": narrow}
    bits, replaced = cost.get("bits", {}), cost.get("replaced", {})
    costs["plan"] = {
        "bytes": memory.get("after", {}).get("total"),
        "operations": operations(replaced) if "lookups" in replaced else None,
        "bops": bits.get("bops"),
        "weight_bits": bits.get("weight_bits"),
    }
    return costs


def variant_cells(row: Mapping[str, Any]) -> list[str]:
    """A row's COLUMNS as text; operations with three digits and a prefix: "4.09 G"."""
    accuracies = (row["val_accuracy"], row["test_accuracy"])
    total_bytes, joules = row["bytes"], row["energy"]
    return [
        *("" if value is None else f"{value:.2f}" for value in accuracies),
        "" if total_bytes is None else _bytes(total_bytes),
        *("" if row[key] is None else prefixed(row[key]) for key in ("operations", "bops")),
        "" if joules is None else in_joules(joules),
    ]


def prefixed(count: float) -> str:
    """Three digits and a metric prefix: 999, 1.23 k, 45.6 M."""
    prefixes = ["", " k", " M", " G", " T", " P"]
    while count >= 999.5 and len(prefixes) > 1:
        count, prefixes = count / 1000, prefixes[1:]
    return f"{count:.3g}{prefixes[0]}"


def counted(number: int, noun: str) -> str:
    """A number of things: 1 record, 1,200 records."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _bytes(count: int) -> str:
    return f"{count:,}" if count < LARGE else prefixed(count)


def _row(
    name: str, accuracies: Mapping[str, Any], cost: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "variant": name,
        **{key: accuracies.get(key) for key in ("val_accuracy", "test_accuracy")},
        **{key: (cost or {}).get(key) for key in COSTS},
    }
