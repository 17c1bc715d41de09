"""Terminal output of an evaluation: plan, errors, cost, memory, latency, accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from halut.analysis.memory import memory_lines, times
from halut.analysis.runtime import runtime_lines
from halut.encoders import encoders
from halut.sites.plan import Plan
from halut.training.logging.progress import console
from halut.training.report import plan_table
from halut.training.report_tables import cost_lines


def show(figures: Mapping[str, Any], plan: Plan) -> None:
    """Print the plan, the layers' errors, the accuracy, the cost, the memory and the times."""
    console.print(plan_table(plan))
    console.print(_errors(figures))
    lines = [*cost_lines(figures["cost"]), *memory_lines(figures["memory"])]
    if figures["prepared_bytes"] is not None:
        layout = figures["prepared_layout_bytes"]
        again = f"; {layout:,} more for tables laid out for the kernels" if layout else ""
        narrow = any((e.options.get("bits") or 8) < 8 and e.operator in encoders for e in plan)
        entries = " (a byte for each entry of tables, also of fewer bits)" if narrow else ""
        lines.append(f"memory prepared: {figures['prepared_bytes']:,} bytes{entries}{again}")
    if (latency := figures["latency"]) is not None:
        exact, prepared = latency["ms"]["exact"], latency["ms"]["prepared"]
        lines.append(
            f"latency of {latency['batch']} on the CPU, {latency['threads']} threads: exact "
            f"{exact:.3g} ms, prepared {prepared:.3g} ms, "
            f"{times(exact / prepared, 'faster', 'slower')}"
        )
    if (runtime := figures["runtime"]) is not None:
        lines += runtime_lines(runtime, runtime["tolerance"])
    recorded = dict(figures["recorded"])
    samples = recorded.pop("samples")
    accuracies = ", ".join(f"{k} {v:.2f} %" for k, v in recorded.items() if v is not None)
    accuracies += (
        f" of {samples:,} samples" if samples is not None else " of samples not counted then"
    )
    accuracy = f"{figures['split']} accuracy: {figures['accuracy']:.2f} %"
    count = f"of {figures['samples']:,} samples of {figures['data']}"
    has_accuracy = any(value is not None for value in recorded.values())
    lines.append(f"{accuracy} {count}" + (f" (recorded: {accuracies})" if has_accuracy else ""))
    for line in lines:
        console.print(line, highlight=False)


def _errors(figures: Mapping[str, Any]) -> Table:
    table = Table(title="errors against the exact product", title_justify="left")
    table.add_column("site", overflow="fold")
    table.add_column("operator")
    columns = ("mae", "mse", "normalized_mse", "cosine")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for layer in figures["layers"]:
        values = [f"{layer[c]:.4g}" if c in layer else "" for c in columns]
        table.add_row(layer["name"], layer["operator"], *values)
    return table
