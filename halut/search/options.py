"""What sites may become, with what it costs and is predicted to lose: the items of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from halut.analysis.energy import EnergyTable
from halut.analysis.network_cost import planned_costs
from halut.analysis.plan_cost import EXACT, plan_cost, site_costs
from halut.errors import HalutError
from halut.replace.sharing import with_sharing
from halut.results.record import Record
from halut.search.budget import COUNTED, LATENCY
from halut.search.knapsack import Array, Item
from halut.sites.find import Site
from halut.sites.plan import KEEP, Entry, Plan
from halut.studies.sensitivity_table import label_of

SCORES = ("loss", "lost", "fisher")
"""Predictions of what an option does alone: the measured rise of the loss, measured points of
accuracy, the rise of the loss by its Taylor series."""


@dataclass(frozen=True)
class SiteGroup:
    """A site, or several that share an input, of which one option is taken.

    entries: of each option one for every site. labels: the words that the options were asked for
    by. losses (O,): as a score predicts them alone, summed over the sites. costs (O, R): of all the
    sites for the space's resources, what they share once.
    """

    entries: tuple[tuple[Entry, ...], ...]
    labels: tuple[str, ...]
    losses: Array
    costs: Array

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, in the network's order."""
        return tuple(entry.site for entry in self.entries[0])


@dataclass(frozen=True)
class Space:
    """All sites with options, in groups, and what the rest of the network costs, (R,), for R
    `resources`. `notes` say, a line each, which options groups cannot have."""

    plan: Plan
    groups: tuple[SiteGroup, ...]
    rest: Array
    notes: tuple[str, ...] = ()
    resources: tuple[str, ...] = COUNTED

    @property
    def sites(self) -> list[Site]:
        """The sites that have options."""
        return [site for group in self.groups for site in group.sites]

    @property
    def losses(self) -> list[Array]:
        """What a score predicts of every group's options alone."""
        return [group.losses for group in self.groups]

    def items(self, resources: Sequence[str], losses: Sequence[Array] | None = None) -> list[Item]:
        """Items of a knapsack over these resources; `losses` in place of the predicted ones."""
        columns = [self.resources.index(name) for name in resources]
        own = self.losses if losses is None else losses
        return [
            Item(loss, group.costs[:, columns])
            for group, loss in zip(self.groups, own, strict=True)
        ]

    def rest_of(self, resources: Sequence[str]) -> Array:
        """What the rest costs of these resources."""
        return self.rest[[self.resources.index(name) for name in resources]]

    def cost_of(self, options: Sequence[int]) -> dict[str, float]:
        """Costs of the whole network by resource, one option taken of each group."""
        total = self.rest + sum(g.costs[o] for g, o in zip(self.groups, options, strict=True))
        return {name: float(value) for name, value in zip(self.resources, total, strict=True)}

    def labels_of(self, options: Sequence[int]) -> dict[str, str]:
        """The words of these options by the names of their sites."""
        return {
            site.name: group.labels[o]
            for group, o in zip(self.groups, options, strict=True)
            for site in group.sites
        }

    def plan_of(self, options: Sequence[int]) -> Plan:
        """The plan that has these options; sites without any are kept, as the space's plan says."""
        chosen = {
            entry.site.name: entry
            for group, o in zip(self.groups, options, strict=True)
            for entry in group.entries[o]
        }
        entries = [
            chosen.get(e.site.name) or Entry(e.site, KEEP, reason=e.reason or "not searched")
            for e in self.plan
        ]
        return Plan(
            tuple(entries), self.plan.model, self.plan.unsupported, plugins=self.plan.plugins
        )

    def with_latency(
        self, options: Sequence[Array], exact: Sequence[float], network: float
    ) -> Space:
        """The space with `latency` among its resources: seconds of every group's options, (O,), of
        its exact layers, and of the whole exact network, less those what the rest takes."""
        groups = tuple(
            replace(group, costs=np.column_stack([group.costs, seconds]))
            for group, seconds in zip(self.groups, options, strict=True)
        )
        rest = np.append(self.rest, network - sum(exact))
        return replace(self, groups=groups, rest=rest, resources=(*self.resources, LATENCY))


@dataclass(frozen=True)
class _Scored:
    """An option as one site has it."""

    entry: Entry
    label: str
    loss: float


def space_of(
    plan: Plan,
    network: nn.Module,
    records: Sequence[Record],
    score: str,
    energies: EnergyTable,
    keep: bool = True,
    macs_outside: int = 0,
    inputs: Sequence[Sequence[str]] = (),
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
        inputs: names of sites that read one input (halut.replace.sharing.same_inputs). Those of
            them that cut its rows alike are one group: they have the options that all of them have.

    HalutError if no site has an option.
    """
    scored: dict[str, dict[str, _Scored]] = {}
    for record in records:
        if record.site is None:
            continue
        own = scored.setdefault(record.site, {})
        loss = predicted(record, score)
        if loss is not None:
            entry = Entry(plan[record.site].site, str(record.operator), dict(record.options))
            own[repr((entry.operator, entry.options))] = _Scored(entry, label_of(record), loss)
    groups: list[SiteGroup] = []
    notes: list[str] = []
    for sites in _grouped([e.site for e in plan if e.site.name in scored], inputs):
        by_site = [scored[site.name] for site in sites]
        notes += _partial(sites, by_site)
        common = [key for key in by_site[0] if all(key in own for own in by_site)]
        options = [[own[key] for own in by_site] for key in common]
        if not options:
            continue
        losses = [sum(each.loss for each in option) for option in options]
        kept = [_kept(sites, kept_reason(losses, score))] if keep else []
        plans = [Plan(tuple(each.entry for each in option)) for option in options]
        entries = [*kept, *(with_sharing(plan, inputs).entries for plan in plans)]
        groups.append(
            SiteGroup(
                tuple(entries),
                (*(KEEP for _ in kept), *(option[0].label for option in options)),
                np.array([*(0.0 for _ in kept), *losses]),
                np.array([_cost(each, energies) for each in entries]),
            )
        )
    if not groups:
        why = "; ".join(notes) or "what cannot be at a site is said above"
        raise HalutError(f"no site has an option: {why}")
    exact = plan_cost(plan, network, energies, variants=(EXACT,), macs_outside=macs_outside)[0]
    rest = _vector(exact.figures)
    for group in groups:
        rest = rest - _cost(_kept(group.sites), energies)
    return Space(plan, tuple(groups), rest, tuple(notes))


def _grouped(sites: Sequence[Site], inputs: Sequence[Sequence[str]]) -> list[list[Site]]:
    """The sites, those together that read one input and cut its rows alike."""
    number = {name: i for i, names in enumerate(inputs) for name in names}
    groups: dict[Any, list[Site]] = {}
    for site in sites:
        shape = (site.kind, site.D, site.groups, site.geometry)
        key = (number[site.name], shape) if site.name in number else site.name
        groups.setdefault(key, []).append(site)
    return list(groups.values())


def _partial(sites: Sequence[Site], scored: Sequence[Mapping[str, _Scored]]) -> list[str]:
    """A line for each option that some of the sites have, and others have not."""
    every = {key: option.label for own in scored for key, option in own.items()}
    names = ", ".join(site.name for site in sites)
    return [
        f"{label} is no option of {names}, which share their input (policy.share): "
        f"{', '.join(without)} does not have it"
        for key, label in every.items()
        if (without := [s.name for s, own in zip(sites, scored, strict=True) if key not in own])
    ]


def _kept(sites: Sequence[Site], reason: str = "") -> tuple[Entry, ...]:
    return tuple(Entry(site, KEEP, reason=reason) for site in sites)


def kept_reason(losses: Sequence[float], score: str) -> str:
    """Why a search keeps a site: what the best of its options is predicted to lose."""
    least = f"{min(losses):.2g}"
    does = f"lose {least} points" if score == "lost" else f"raise the loss by {least}"
    return f"kept by the search: its best option is predicted to {does}"


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


def _cost(entries: Sequence[Entry], energies: EnergyTable) -> Array:
    """(R,) what the entries cost together for one sample, shared encoders once."""
    costs = site_costs(planned_costs(Plan(tuple(entries))), energies)
    return np.sum([_vector(each.figures) for each in costs], axis=0)


def _vector(figures: Mapping[str, float | None]) -> Array:
    return np.array([float(figures.get(name) or 0.0) for name in COUNTED])
