"""Options of `halut search` by trials, which experiments may bring; a run reads none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from halut.option import option


@dataclass
class SearchConfig:
    """What is searched, and how."""

    sampler: list[str] = option(
        [], "who chooses the trials: tpe, grid, random, nsga2, cmaes; one study for each"
    )
    trials: int | None = option(None, "trials of a study; null: 20, of a grid all of its points")
    seeds: list[int] = option([0], "seeds of sampler and training; one study for each")
    space: dict[str, Any] = option(
        {}, "KEY: VALUES as in a sweep, several keys joined by +; VALUES if KEY=A,B"
    )
    sites: list[dict[str, Any]] = option(
        [],
        "what sites may become: [{name: PATTERN, options: [keep, tree V=9], shared: false}, ...]",
    )
    curves: dict[str, Any] = option(
        {}, "NAME: {overrides: [], space: {}, sites: [], objective: FIGURE}; one study for each"
    )
    objective: str = option("val_accuracy", "the figure that is made large")
    minimize: list[str] = option([], "costs that are made small beside it: bytes, energy, ...")
    budget: str | None = option(None, "what a trial may cost: bytes:120k")
    prune: str = option(
        "none", "which trials end early, at the ends of stages: none, median, halving"
    )
