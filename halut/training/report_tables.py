"""Terminal tables of a report: networks, stages, and costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from halut.analysis.bit_operations import bits_line
from halut.analysis.memory import memory_lines
from halut.analysis.variants import COLUMNS, variant_cells, variants
from halut.replace.ptq import describe
from halut.training.logging.progress import console


def show_report(report: Mapping[str, Any]) -> None:
    """Print the table of variants, that of the stages, and the cost in words."""
    console.print(variants_table(report))
    console.print(stages_table(report))
    for line in report_lines(report):
        console.print(line, highlight=False, markup=False)


def variants_table(report: Mapping[str, Any]) -> Table:
    """One row a network; it fits 80 columns."""
    counts = (report.get("data") or {}).get("evaluated") or {}
    parts = [("validation", counts.get("val")), ("test", counts.get("test"))]
    samples = " and ".join(f"{count} {name}" for name, count in parts if count)
    of = f" of {samples} samples" if samples else ""
    energies = (report["cost"].get("energies") or {}).get("name")
    title = f"accuracy in percent{of}, bytes; operations per sample"
    title += f", energy at {energies}" if energies else ""
    table = Table(title=title, title_justify="left")
    table.add_column("variant", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for row in variants(report):
        table.add_row(row["variant"], *variant_cells(row))
    return table


def stages_table(report: Mapping[str, Any]) -> Table:
    """Validation accuracy before and after each stage's swap, and after its training."""
    table = Table(title="stages: validation accuracy in percent", title_justify="left")
    table.add_column("stage")
    table.add_column("replaced", overflow="fold")
    keys = ("before", "after_swap", "after_training")
    for key in keys:
        table.add_column(key.replace("_", " "), justify="right", overflow="fold")
    for index, stage in enumerate(report["stages"]):
        accuracies = (f"{stage[f'val_accuracy_{key}']:.2f}" for key in keys)
        table.add_row(f"{index:02d}", ", ".join(stage["sites"]) or "-", *accuracies)
    return table


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The integer baselines, the cost and the memory in words."""
    memory = memory_lines(report["memory"]) if "memory" in report else []  # earlier ones have none
    integers = [
        f"{name.upper()}: {describe(entry)}" for name, entry in report.get("ptq", {}).items()
    ]
    return [*integers, *cost_lines(report["cost"]), *memory]


def cost_lines(cost: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Cost per sample, exact and replaced, and the average widths; what is zero is left out."""
    lines = []
    for name in ("exact", "replaced"):
        c = cost[name]
        encoding = _counts(c, encode_compares="compares", encode_macs="multiply-adds")
        encoding += _counts(c, encode_adds="adds", encode_ops="operations")  # the last: earlier
        parts = [f"{c['macs']:,} multiply-adds"]
        parts += [f"encoding {' and '.join(encoding)}"] if encoding else []
        parts += _counts(c, lookups="look-ups and adds", weight_bytes="bytes of weights")
        parts += _counts(c, table_bytes="bytes of tables")
        lines.append(f"{name}: {', '.join(parts)}")
    lines += [bits_line(cost["bits"])] if "bits" in cost else []  # earlier ones have none
    if outside := cost.get("variants", {}).get("exact", {}).get("macs_outside"):
        lines.append(
            f"outside of the sites, in the table's figures: {outside:,} multiply-adds in float32"
        )
    if "energies" in cost:
        lines.append(f"energies: {cost['energies']['name']}, {cost['energies']['source']}")
    return lines


def _counts(cost: Mapping[str, Any], **words: str) -> list[str]:
    return [f"{cost[key]:,} {word}" for key, word in words.items() if cost.get(key)]
