"""What every site may become, with what it costs and is predicted to lose: a search's items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from halut.analysis.energy import EnergyTable
from halut.analysis.network_cost import planned_costs
from halut.analysis.plan_cost import EXACT, plan_cost, site_costs
from halut.errors import HalutError
from halut.results.record import Record
from halut.search.budget import RESOURCES
from halut.search.knapsack import Array, Item
from halut.sites.plan import KEEP, Entry, Plan
from halut.studies.sensitivity_table import label_of

SCORES = ("loss", "lost", "fisher")
"""Predictions of what an option does alone: the measured rise of the loss, measured points of
accuracy, the rise of the loss by its Taylor series."""


@dataclass(frozen=True)
class SiteOptions:
    """The entries that one site may have, the words that they were asked for by, `losses` (O,) as a
    score predicts them alone, and `costs` (O, R) for the resources of RESOURCES."""

    entries: tuple[Entry, ...]
    labels: tuple[str, ...]
    losses: Array
    costs: Array


@dataclass(frozen=True)
class Space:
    """All sites with options, and what the rest of the network costs, (R,)."""

    plan: Plan
    sites: tuple[SiteOptions, ...]
    rest: Array

    def items(self, resources: Sequence[str], losses: Sequence[Array] | None = None) -> list[Item]:
        """Items of a knapsack over these resources; `losses` in place of the predicted ones."""
        columns = [list(RESOURCES).index(name) for name in resources]
        own = [site.losses for site in self.sites] if losses is None else losses
        return [
            Item(loss, site.costs[:, columns]) for site, loss in zip(self.sites, own, strict=True)
        ]

    def rest_of(self, resources: Sequence[str]) -> Array:
        """What the rest costs of these resources."""
        return self.rest[[list(RESOURCES).index(name) for name in resources]]

    def cost_of(self, options: Sequence[int]) -> dict[str, float]:
        """Costs of the whole network by resource, one option taken of each site."""
        total = self.rest + sum(s.costs[o] for s, o in zip(self.sites, options, strict=True))
        return {name: float(value) for name, value in zip(RESOURCES, total, strict=True)}

    def labels_of(self, options: Sequence[int]) -> dict[str, str]:
        """The words of these options by the names of their sites."""
        return {
            site.entries[o].site.name: site.labels[o]
            for site, o in zip(self.sites, options, strict=True)
        }

    def plan_of(self, options: Sequence[int]) -> Plan:
        """The plan that has these options; sites without any are kept, as the space's plan says."""
        chosen = {
            site.entries[o].site.name: site.entries[o]
            for site, o in zip(self.sites, options, strict=True)
        }
        entries = [
            chosen.get(e.site.name) or Entry(e.site, KEEP, reason=e.reason or "not searched")
            for e in self.plan
        ]
        return Plan(
            tuple(entries), self.plan.model, self.plan.unsupported, plugins=self.plan.plugins
        )


def space_of(
    plan: Plan,
    network: nn.Module,
    records: Sequence[Record],
    score: str,
    energies: EnergyTable,
    keep: bool = True,
    macs_outside: int = 0,
) -> Space:
    """The space of the options that were scored.

    Args:
        plan: of the network, whose sites they are.
        network: the exact network.
        records: of `halut sensitivity`, all scores; those without figures, or whose figures are not
            finite, are no options.
        score: one of SCORES.
        energies: of halut.analysis.energy.load_energies.
        keep: whether a site may stay exact; one that has no other option does in any case.
        macs_outside: of halut.analysis.network_cost.macs_outside, part of what the rest costs.

    HalutError if no site has an option.
    """
    by_site: dict[str, dict[str, tuple[Entry, float]]] = {}
    words: dict[str, str] = {}
    for record in records:
        loss = predicted(record, score)
        if loss is None or record.site is None:
            continue
        entry = Entry(plan[record.site].site, str(record.operator), dict(record.options))
        by_site.setdefault(record.site, {})[repr(entry)] = (entry, loss)
        words[repr(entry)] = label_of(record)
    if not by_site:
        raise HalutError("no site has an option: what cannot be at a site is said above")
    sites = []
    for entry in plan:
        scored = by_site.get(entry.site.name)
        if scored is None:
            continue
        kept = [(Entry(entry.site, KEEP, reason="kept by the search"), 0.0)] if keep else []
        pairs = [*kept, *scored.values()]
        costs = _costs([each for each, _ in pairs], energies)
        losses = np.array([loss for _, loss in pairs])
        labels = tuple(words.get(repr(each), KEEP) for each, _ in pairs)
        sites.append(SiteOptions(tuple(each for each, _ in pairs), labels, losses, costs))
    exact = plan_cost(plan, network, energies, variants=(EXACT,), macs_outside=macs_outside)[0]
    searched = [Entry(site.entries[0].site, KEEP) for site in sites]
    rest = _vector(exact.figures) - _costs(searched, energies).sum(axis=0)
    return Space(plan, tuple(sites), rest)


def predicted(record: Record, score: str) -> float | None:
    """What a record predicts by a score; None if it is of another, or not finite."""
    figures: Mapping[str, float | None] = record.figures
    if record.score != ("fisher" if score == "fisher" else "measured"):
        return None
    if score == "lost":
        return figures.get("lost")
    names = {"fisher": ("first_order", "second_order"), "loss": ("loss", "exact_loss")}[score]
    a, b = (figures.get(name) for name in names)
    if a is None or b is None:
        return None
    return a + b if score == "fisher" else a - b


def _costs(entries: Sequence[Entry], energies: EnergyTable) -> Array:
    """(O, R) costs of entries for one sample."""
    rows = [
        _vector(each.figures) for each in site_costs(planned_costs(Plan(tuple(entries))), energies)
    ]
    return np.array(rows).reshape(len(entries), len(RESOURCES))


def _vector(figures: Mapping[str, float | None]) -> Array:
    return np.array([float(figures.get(name) or 0.0) for name in RESOURCES])
