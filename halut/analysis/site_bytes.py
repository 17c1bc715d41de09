"""Bytes of a plan's sites: as floats, as INT8 weights, and as what the plan makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from halut.analysis.network_cost import planned_costs
from halut.sites.find import Site
from halut.sites.plan import Plan

FLOAT = 4


@dataclass(frozen=True)
class SiteBytes:
    """`exact`: weights and biases as floats; `planned`: all that inference holds of the operator.

    `int8` is a byte for every weight, to hold `tables` against, without scales and biases.
    """

    exact: int
    planned: int
    int8: int
    tables: int = 0

    @property
    def exceeds_int8(self) -> bool:
        """True if the site's tables take more than its INT8 weights would."""
        return self.tables > self.int8

    @property
    def grows(self) -> bool:
        """True if the operator with all it holds, encoders included, takes more than the floats."""
        return self.planned > self.exact


def plan_bytes(plan: Plan) -> dict[str, SiteBytes]:
    """The bytes of every site by name; a shared encoder counts at the first site that has it.

    Operators are built one after the other, and dropped.
    """
    return {
        entry.site.name: bytes_of_site(entry.site, cost if entry.replaced else None)
        for entry, _, cost in planned_costs(plan)
    }


def bytes_of_site(site: Site, cost: Mapping[str, int] | None) -> SiteBytes:
    """Bytes by the operator's cost (None: the site is kept)."""
    exact = FLOAT * (site.weights + site.M * site.bias)
    if cost is None:
        return SiteBytes(exact, exact, site.weights)
    tables = cost.get("table_bytes", 0)
    planned = cost["weight_bytes"] + tables + cost.get("encoder_bytes", 0)
    return SiteBytes(exact, planned, site.weights, tables)


def warning_lines(plan: Plan, by_site: Mapping[str, SiteBytes]) -> list[str]:
    """What there is to say of tables larger than INT8 weights, and of sites larger than floats."""
    lines = []
    large = [by_site[e.site.name] for e in plan.replaced if by_site[e.site.name].exceeds_int8]
    if large:
        tables, int8 = sum(b.tables for b in large), sum(b.int8 for b in large)
        lines.append(
            f"! the tables of {len(large)} of {len(plan.replaced)} sites take more than their INT8 "
            f"weights: {tables:,} bytes, not {int8:,}; larger halut.V (smaller halut.C), smaller "
            "halut.K and fewer halut.bits take less, and cost accuracy"
        )
    larger = [e.site.name for e in plan.replaced if by_site[e.site.name].grows]
    if larger:
        lines.append(f"!! larger than their floats, with all they hold: {', '.join(larger)}")
    return lines


def bytes_words(site: SiteBytes, replaced: bool = True) -> str:
    """A site's bytes before and after, marked: ! and how many times INT8, !! more than floats."""
    if not replaced:
        return f"{site.exact:,}"
    words = f"{site.exact:,} -> {site.planned:,}"
    if site.grows or site.exceeds_int8:
        words += " !!" if site.grows else " !"
    return f"{words} {site.tables / site.int8:.3g}x INT8" if site.exceeds_int8 else words
