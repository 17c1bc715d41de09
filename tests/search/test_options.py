"""Spaces of scored options: they cost what halut.plan_cost says, and hold what was scored."""

from __future__ import annotations

import pytest
import torch

import halut
from halut.analysis.energy import load_energies
from halut.analysis.plan_cost import plan_cost
from halut.analysis.sensitivity import candidates_of
from halut.configs import Tree
from halut.errors import HalutError
from halut.models.build import build_model
from halut.replace.operator_registry import config_of
from halut.results.record import Record
from halut.search.budget import COUNTED
from halut.search.options import space_of
from halut.sites.plan import KEEP, Entry, Plan


@pytest.fixture(scope="module")
def network():
    return build_model("resnet8", num_classes=10, in_channels=1).eval()


@pytest.fixture(scope="module")
def plan(network):
    sites, _ = halut.find_sites(network, torch.zeros(1, 1, 8, 8))
    return Plan(tuple(Entry(site, KEEP, reason="as it is") for site in sites))


def records_of(plan, score="measured"):
    configs = [Tree(C=8, K=8), Tree(C=4, K=4, bits=4), config_of("integer", {"width": 4})]
    sites = [entry.site for entry in plan if entry.site.name.startswith("stack")]
    for number, candidate in enumerate(candidates_of(sites, configs)):
        figures = {"loss": 0.5 + number, "exact_loss": 0.5, "lost": 2.0 * number}
        if score == "fisher":
            figures = {"first_order": -0.1, "second_order": 0.1 + number}
        entry = candidate.entry
        yield Record(
            "sensitivity",
            {"model": "resnet8", "options": {}, "weights": "0"},
            {"name": "digits", "split": "val", "samples": 1, "digest": "0"},
            figures if candidate.reason is None else {},
            site=entry.site.name,
            operator=entry.operator,
            options=entry.options,
            score=score,
        )


def test_any_plan_costs_what_plan_cost_says(network, plan):
    energies = load_energies()
    records = list(records_of(plan))
    space = space_of(plan, network, records, "loss", energies, macs_outside=1000)
    for pick in (
        (0,) * 8,
        (1, 2, 3, 0, 1, 2, 3, 0),
        tuple(len(g.entries) - 1 for g in space.groups),
    ):
        chosen = space.plan_of(pick)
        (cost,) = plan_cost(chosen, network, energies, variants=("plan",), macs_outside=1000)
        expected = cost.figures
        costs = space.cost_of(pick)
        for resource in COUNTED:
            assert costs[resource] == pytest.approx(expected[resource], rel=1e-9), resource


@pytest.mark.parametrize(("score", "rise"), [("loss", 1.0), ("lost", 2.0), ("fisher", 1.0)])
def test_losses_are_those_of_the_score(network, plan, score, rise):
    records = list(records_of(plan, "fisher" if score == "fisher" else "measured"))
    space = space_of(plan, network, records, score, load_energies())
    assert space.groups[0].losses.tolist() == pytest.approx([0.0, 0.0, rise, 2 * rise])
    (kept,) = space.groups[0].entries[0]
    does = "lose 0 points" if score == "lost" else "raise the loss by 0"
    assert kept.operator == KEEP
    assert kept.reason == f"kept by the search: its best option is predicted to {does}"


def test_options_without_figures_are_none(network, plan):
    records = [r for r in records_of(plan) if r.site == "stack1.conv1"]
    broken = Record(**{**vars(records[0]), "figures": {"loss": float("nan"), "exact_loss": 0.5}})
    space = space_of(plan, network, [broken, *records[1:]], "loss", load_energies(), keep=False)
    (group,) = space.groups
    assert [e.operator for (e,) in group.entries] == ["tree", "integer"]
    with pytest.raises(HalutError, match="no site has an option"):
        space_of(plan, network, [broken], "loss", load_energies())
