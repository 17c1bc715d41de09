"""Cost of a plan before anything is learned: every site, and the whole network, in variants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from halut.analysis.energy import EnergyTable, energy, load_energies
from halut.analysis.network_cost import ENCODE, operations, planned_costs, replaced_costs
from halut.analysis.work import FLOAT, Work, float_products, work_of
from halut.replace.operator_registry import make_operator
from halut.replace.ptq import INPUT_BITS, SCALE_BITS, quantizable, quantized_bytes
from halut.sites.operator import ReplacedLayer
from halut.sites.plan import KEEP, Entry, Plan

EXACT, PLAN = "exact", "plan"
INTEGERS = {"int8": 8, "int4": 4}
"""Bits of the weights that the baselines have at the plan's replaced sites; inputs have 8. As
halut.replace.ptq quantizes them: with a float scale for each output, and attention's two products,
which have no weight, exact."""
VARIANTS = (EXACT, *INTEGERS, PLAN)

SUMS = (
    *("macs", *ENCODE, "lookups", "adds", "operations", "bops"),
    *("table_bytes", "encoder_bytes", "weight_bytes", "code_bytes"),
    *("energy", "energy_compute", "energy_sram", "energy_dram"),
)
"""Figures of sites that add up, with what is outside of them, to the network's."""
OUTSIDE = ("macs", "operations", "bops", "energy", "energy_compute", "energy_dram")
"""Those of them to which what is outside of the sites adds: products in float32, parameters."""


@dataclass(frozen=True)
class SiteCost:
    """One site in one variant. `figures` for one sample:

    macs, encode_compares, encode_macs, encode_adds, lookups, adds: operations, and `operations`
    their sum as halut.analysis.network_cost.operations has it; bops: bit operations; table_bytes,
    encoder_bytes (thresholds with the columns they test, or prototypes), weight_bytes (weights,
    biases, scales), and bytes, their sum; code_bytes: the codes of the sample, which pass from
    encoder to table; weight_bits and activation_bits: averages for a weight of the exact layer and
    for a value that it reads, None where there is no weight; energy, ...: joules, see
    halut.analysis.energy.energy.
    """

    entry: Entry
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class VariantCost:
    """A network in one variant: its sites in the network's order, and the figures of all of it.

    figures: sums of the sites', weight_bits and activation_bits as averages over all of them, kept
    ones included; macs_outside: multiply-adds in float32 of products that are no sites, such as
    attention's, which are part of macs, operations, bops and energy (of their operations; what they
    read is not counted); bytes: of the whole network, also of what is no site: norms, embeddings.
    """

    variant: str
    sites: tuple[SiteCost, ...]
    figures: Mapping[str, float]


def plan_cost(
    plan: Plan,
    network: nn.Module,
    energies: EnergyTable | None = None,
    variants: Iterable[str] = VARIANTS,
    reuse: int | None = None,
    bank: int | None = None,
    *,
    macs_outside: int = 0,
    replaced: nn.Module | None = None,
) -> list[VariantCost]:
    """The cost for one sample of `network`, which is exact, in each of the variants.

    `exact` has every site in 32-bit floats, `int8`, `int4`, ... have integers (INTEGERS) where the
    plan replaces, `plan` is the plan. Nothing is learned, and the network's weights are not read:
    it may be on the meta device. `energies`: None is that of 45 nm; `reuse`: see
    halut.analysis.work.work_of, `bank`: halut.analysis.energy.energy; `macs_outside`: as
    halut.analysis.network_cost.macs_outside counts them. With `replaced`, the network that the plan
    has made, `plan` is what that costs, with all it has learned.

    >>> from halut.sites.find import Site
    >>> network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> site = Site("2", "linear", D=8, M=2)
    >>> exact, ours = plan_cost(Plan((Entry(site, "tree", {"C": 2}),)), network,
    ...                         variants=("exact", "plan"))
    >>> exact.figures["macs"], ours.figures["macs"], ours.figures["lookups"]
    (16, 0, 4)
    """
    energies = load_energies() if energies is None else energies
    rest = bytes_outside(network, [entry.site.name for entry in plan])
    costs = []
    for name in variants:
        layers = variant_layers(plan, name, replaced)
        sites = site_costs(layers, energies, reuse, bank)
        costs.append(_variant(name, sites, rest, macs_outside, energies))
    return costs


def with_latency(costs: Iterable[VariantCost], times: Mapping[str, Any]) -> list[VariantCost]:
    """The costs with `latency` in seconds, by halut.analysis.plan_latency.plan_latency, of what was
    measured: networks, and the sites that the plan replaces."""
    timed = []
    for cost in costs:
        figures = dict(cost.figures)
        if (ms := times["ms"].get(cost.variant)) is not None:
            figures["latency"] = ms / 1e3
        sites = []
        for each in cost.sites:
            by_variant = times["sites"].get(each.entry.site.name, {})
            own = dict(each.figures)
            if (ms := by_variant.get(cost.variant)) is not None:
                own["latency"] = ms / 1e3
            sites.append(replace(each, figures=own))
        timed.append(replace(cost, sites=tuple(sites), figures=figures))
    return timed


def variant_layers(
    plan: Plan, variant: str, replaced: nn.Module | None = None
) -> Iterator[tuple[Entry, ReplacedLayer | None, dict[str, int]]]:
    """Every entry as `variant` has it, its layer, None of an exact one, and what that costs."""
    if variant == PLAN and replaced is not None:
        yield from replaced_costs(plan, replaced)
        return
    for entry, layer, cost in planned_costs(variant_of(plan, variant)):
        if variant != PLAN and layer is not None:
            width = integer_bits(variant)
            cost = {
                **cost,
                "weight_bits": width * entry.site.weights + SCALE_BITS * entry.site.M,
                "weight_bytes": quantized_bytes([entry.site], width),
            }
        yield entry, layer, cost


def variant_of(plan: Plan, variant: str) -> Plan:
    """The plan with what `variant` has at the sites that it replaces."""
    if variant == PLAN:
        return plan
    entries = []
    for entry in plan:
        if not entry.replaced or variant == EXACT:
            entries.append(Entry(entry.site, KEEP, reason=entry.reason))
        elif not quantizable([entry]):
            entries.append(Entry(entry.site, KEEP, reason="no weight to quantize"))
        else:
            activation = {"name": "integer", "width": INPUT_BITS}
            width = integer_bits(variant)
            operator = make_operator("integer", width=width, activation=activation)
            entries.append(Entry(entry.site, "integer", operator.plan_options(entry.site)))
    return replace(plan, entries=tuple(entries))


def integer_bits(variant: str) -> int:
    """Bits of the weights of int8, int4, and of any other width that halut.replace.ptq has."""
    return INTEGERS[variant] if variant in INTEGERS else int(variant.removeprefix("int"))


def site_costs(
    layers: Iterable[tuple[Entry, ReplacedLayer | None, Mapping[str, int]]],
    energies: EnergyTable,
    reuse: int | None = None,
    bank: int | None = None,
) -> tuple[SiteCost, ...]:
    """The cost of every site, by its layer and that layer's own cost."""
    costs = []
    for entry, layer, cost in layers:
        site = entry.site
        held = {key: cost.get(key, 0) for key in ("table_bytes", "encoder_bytes", "weight_bytes")}
        weight_bits = cost.get("weight_bits", FLOAT * site.weights)
        input_bits = cost.get("input_bits", FLOAT * site.inputs)
        counted = {key: cost.get(key, 0) for key in ("macs", *ENCODE, "lookups", "adds")}
        figures: dict[str, float | None] = {
            **counted,
            "operations": operations(counted),
            "bops": cost.get("bops", FLOAT * FLOAT * counted["macs"]),
            **held,
            "bytes": sum(held.values()),
            "code_bytes": cost.get("index_bits", 0) / 8,
            "weight_bits": weight_bits / site.weights if site.weights else None,
            "activation_bits": input_bits / site.inputs,
            **energy(work_of(site, layer, cost, reuse), energies, bank),
        }
        costs.append(SiteCost(entry, figures))
    return tuple(costs)


def bytes_outside(network: nn.Module, sites: Iterable[str]) -> int:
    """Bytes of parameters and buffers outside of the modules of that name, each tensor once."""
    modules = [network.get_submodule(name) for name in sites]
    inside = {id(t) for module in modules for t in (*module.parameters(), *module.buffers())}
    outside: dict[int, Tensor] = {
        id(t): t for t in (*network.parameters(), *network.buffers()) if id(t) not in inside
    }
    return sum(t.numel() * t.element_size() for t in outside.values())


def _variant(
    name: str, sites: tuple[SiteCost, ...], rest: int, macs_outside: int, energies: EnergyTable
) -> VariantCost:
    figures: dict[str, float] = {key: sum(site.figures[key] or 0 for site in sites) for key in SUMS}
    figures["bytes"] = rest + sum(site.figures["bytes"] or 0 for site in sites)
    for key, count in (("weight_bits", "weights"), ("activation_bits", "inputs")):
        counts = [getattr(each.entry.site, count) for each in sites]
        bits = sum((each.figures[key] or 0) * n for each, n in zip(sites, counts, strict=True))
        figures[key] = bits / max(sum(counts), 1)
    work = Work(float_products(macs_outside), state=rest)
    outside = {
        **dict.fromkeys(("macs", "operations"), macs_outside),
        "bops": FLOAT * FLOAT * macs_outside,
        **energy(work, energies),
    }
    for key in OUTSIDE:
        figures[key] += outside[key]
    figures["macs_outside"] = macs_outside
    return VariantCost(name, sites, figures)
