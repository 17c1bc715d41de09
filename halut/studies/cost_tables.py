"""How `halut cost` shows a cost: tables on the terminal, JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from halut.analysis.energy import EnergyTable, in_joules
from halut.analysis.plan_cost import EXACT, PLAN, SiteCost, VariantCost
from halut.analysis.variants import prefixed
from halut.replace.operator_registry import make_operator
from halut.sites.plan import Entry, Plan
from halut.studies.measuring import SHAPE, shape_of
from halut.training.logging.progress import console

NAMES = {EXACT: "float32", "int8": "INT8", "int4": "INT4"}
WIDE = 120
"""Columns from which on a site's figures are shown beside each other."""
COUNTS = {
    "macs": "multiply-adds",
    "encode_compares": "compares of encoders",
    "encode_macs": "multiply-adds of encoders",
    "encode_adds": "adds of encoders",
    "lookups": "look-ups with their adds",
    "table_bytes": "bytes of tables",
    "encoder_bytes": "bytes of thresholds or prototypes",
    "weight_bytes": "bytes of weights, biases and scales of sites",
    "code_bytes": "bytes of codes",
}


def show(
    plan: Plan,
    costs: Sequence[VariantCost],
    energies: EnergyTable,
    times: Mapping[str, Any] | None = None,
) -> None:
    """Print the tables of the sites and of the variants, what the plan's figures consist of, and
    what was timed."""
    console.print(sites_table(costs, console.width, sample_of(plan)))
    for name, reason in plan.unsupported.items():
        console.print(f"no site: {name or 'the network'}: {reason}", highlight=False)
    console.print(variants_table(plan, costs, console.width))
    if outside := costs[0].figures["macs_outside"]:
        console.print(
            f"of every network {outside:,} multiply-adds in float32 are outside of the sites",
            highlight=False,
        )
    for cost in costs:
        if cost.variant == PLAN:
            parts = [f"{cost.figures[k]:,.0f} {w}" for k, w in COUNTS.items() if cost.figures[k]]
            console.print(f"the plan: {', '.join(parts)}", highlight=False, markup=False)
    console.print(f"energies: {energies.name}, {energies.source}", highlight=False, markup=False)
    for line in latency_lines(plan, times) if times is not None else []:
        console.print(line, highlight=False, markup=False)


def latency_lines(plan: Plan, times: Mapping[str, Any]) -> list[str]:
    """What the latencies are of, and why there is none of the others."""
    lines = [
        f"latency: of a batch of {times['batch']} on {times['threads']} threads, random inputs, "
        "taken in turns, each in the quicker memory format; sites alone, from and to float32"
    ]
    for variant, words in {**times["ran"], **times["missing"]}.items():
        name = NAMES.get(variant, _operators(plan))
        lines.append(f"{name}: {'not timed, ' if variant in times['missing'] else ''}{words}")
    return lines


def sample_of(plan: Plan) -> str:
    """One sample, with its shape where the plan tells it."""
    shape = plan.model.get("input_shape")
    return f"one sample of {' x '.join(map(str, shape))}" if shape else "one sample"


def sites_table(
    costs: Sequence[VariantCost], width: int = 140, sample: str = "one sample"
) -> Table:
    """A row for every site: what it becomes; operations, bytes and energy, of a replaced one as
    float32, INT8 and here (integers take as many operations as floats); beside each other, or in a
    table of less than WIDE columns below each other."""
    title = f"sites, of {sample}: float32 / INT8 / here; operations: float32 and INT8 / here"
    table = Table(title=title, title_justify="left")
    by_variant = {cost.variant: cost for cost in costs}
    shown = [by_variant[name] for name in (EXACT, "int8", PLAN)]
    timed = any("latency" in each.figures for each in shown[0].sites)
    between = " / " if width >= WIDE else "\n"
    table.add_column("site: kind, rows x D x M", overflow="fold")
    table.add_column("becomes", overflow="fold")
    for column in ("operations", "bytes", "energy", *(["latency"] if timed else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for exact, integers, planned in zip(*(cost.sites for cost in shown), strict=True):
        site = exact.entry.site
        replaced = planned.entry.replaced
        two = (exact, planned) if replaced else (exact,)
        three = (exact, integers, planned) if replaced else (exact,)
        table.add_row(
            f"{site.name}\n{site.describe()}, {site.rows} x {site.D} x {site.M}",
            _becomes(planned),
            between.join(prefixed(each.figures["operations"] or 0) for each in two),
            between.join(prefixed(each.figures["bytes"] or 0) for each in three),
            between.join(in_joules(each.figures["energy"] or 0) for each in three),
            *([between.join(_times(three)) if replaced else "not timed"] if timed else []),
        )
    return table


def variants_table(plan: Plan, costs: Sequence[VariantCost], width: int = 140) -> Table:
    """A row for every variant of the whole network; below WIDE columns bytes have three digits, and
    the memory's part of the energy is left out."""
    table = Table(title=f"the network, of {sample_of(plan)}", title_justify="left")
    wide = width >= WIDE
    columns = ["bytes", "bits a weight", "an input", "operations", "bit ops", "energy"]
    columns += [*(["of it memory"] if wide else []), "DRAM once"]
    columns += ["latency"] if any("latency" in cost.figures for cost in costs) else []
    table.add_column("variant", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for cost in costs:
        figures = cost.figures
        cells = {
            "bytes": f"{figures['bytes']:,}" if wide else prefixed(figures["bytes"]),
            "bits a weight": f"{figures['weight_bits']:.3g}",
            "an input": f"{figures['activation_bits']:.3g}",
            "operations": prefixed(figures["operations"]),
            "bit ops": prefixed(figures["bops"]),
            "energy": in_joules(figures["energy"]),
            "of it memory": in_joules(figures["energy_sram"]),
            "DRAM once": in_joules(figures["energy_dram"]),
            "latency": _milliseconds(figures.get("latency")),
        }
        name = NAMES.get(cost.variant, _operators(plan))
        table.add_row(name, *(cells[column] for column in columns))
    return table


def content_of(cost: VariantCost) -> dict[str, Any]:
    """A variant as plain JSON types."""
    return {
        "variant": cost.variant,
        "figures": dict(cost.figures),
        "sites": [
            {
                "site": each.entry.site.name,
                **shape_of(each.entry.site),
                "operator": each.entry.operator,
                "options": each.entry.options,
                "shares": each.entry.shares,
                "reason": each.entry.reason,
                "figures": dict(each.figures),
            }
            for each in cost.sites
        ],
    }


def csv_of(costs: Sequence[VariantCost], times: Mapping[str, Any] | None = None) -> str:
    """A row for every site and variant, and one without a site for every network; of `times` what
    ran, or why nothing did."""
    figures = list(costs[0].figures)
    notes = ["latency_of"] if times is not None else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("variant", "site", *SHAPE, "operator", *figures, *notes))
    for cost in costs:
        row: tuple[Any, ...] = (cost.variant, "", *[""] * len(SHAPE), "")
        for entry, own in ((None, cost.figures), *((s.entry, s.figures) for s in cost.sites)):
            if entry is not None:
                site = entry.site
                row = (cost.variant, site.name, *shape_of(site).values(), entry.operator)
            note = [latency_note(times, cost.variant, entry)] if times is not None else []
            writer.writerow((*row, *_row(own, figures), *note))
    return text.getvalue()


def latency_note(times: Mapping[str, Any], variant: str, entry: Entry | None) -> str:
    """What was timed of a variant of the network, or of a site of it, or why nothing was."""
    if entry is None:
        return str(times["ran"].get(variant) or times["missing"][variant])
    name = entry.site.name
    if name not in times["sites"]:
        return "not timed: it stays"
    return str(times["missing_at"][name].get(variant, "alone, from and to float32"))


def _row(figures: Mapping[str, float | None], names: Sequence[str]) -> list[float | None]:
    return [figures.get(name) for name in names]


def _times(sites: Sequence[SiteCost]) -> list[str]:
    return [_milliseconds(each.figures.get("latency")) for each in sites]


def _milliseconds(value: float | None) -> str:
    return "no kernel" if value is None else f"{1e3 * value:.3g} ms"


def _becomes(site: SiteCost) -> str:
    entry = site.entry
    if not entry.replaced:
        return f"stays: {entry.reason}" if entry.reason else "stays"
    summary = make_operator(entry.operator, **entry.options).summary(entry.site)
    if entry.shares is not None:
        summary["shares"] = entry.shares
    return " ".join([entry.operator, *(f"{key}={value}" for key, value in summary.items())])


def _operators(plan: Plan) -> str:
    names = dict.fromkeys(entry.operator for entry in plan.replaced)
    return f"here ({', '.join(names)})"
