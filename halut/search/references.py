"""What plans of a search are beside: the exact network, and INT8 and INT4 at its sites."""

from __future__ import annotations

from typing import Any

from halut.analysis.assembly import Assembly
from halut.analysis.energy import EnergyTable
from halut.analysis.plan_cost import EXACT, INTEGERS, PLAN, plan_cost, variant_of
from halut.search.budget import COUNTED, LATENCY
from halut.search.outcome import PlanFiles
from halut.sites.plan import Plan
from halut.studies.latency import Latencies

NAMES = {EXACT: EXACT, "int8": "INT8", "int4": "INT4"}
"""Variants of halut.analysis.plan_cost, and what they are called."""


def references(
    assembly: Assembly,
    files: PlanFiles,
    energies: EnergyTable,
    macs_outside: int,
    latencies: Latencies | None = None,
) -> list[dict[str, Any]]:
    """{"name", "costs", accuracy, loss, lost, rise, "plan", "command"} of each of NAMES.

    Integers are at all of the space's sites that have a weight, their inputs in 8 bits, and what
    sites have else is as the operator `integer` counts it: as an option of the same search does.
    With `latencies`, those of the whole networks are measured.
    """
    space = files.space
    everywhere = space.plan_of([len(group.labels) - 1 for group in space.groups])
    lines = []
    for variant in (EXACT, *INTEGERS):
        plan = variant_of(everywhere, variant)
        counted = plan_cost(
            plan, assembly.network, energies, variants=(PLAN,), macs_outside=macs_outside
        )[0].figures
        costs = {name: float(counted[name]) for name in COUNTED}
        if latencies is not None:
            costs[LATENCY] = _latency(variant, plan, assembly, latencies)
        line = {"name": NAMES[variant], "costs": costs, **assembly.measure(plan.replaced)}
        lines.append({**line, **files.write(variant, plan)})
    return lines


def _latency(variant: str, plan: Plan, assembly: Assembly, latencies: Latencies) -> float:
    if variant == EXACT:
        return latencies.of_exact()
    return latencies.of_plan(plan, lambda: assembly.assembled(plan.replaced))["latency"]
