"""Sites that share an input in a search: one option, one encoder, counted and learned once."""

from __future__ import annotations

import copy

import pytest
import torch

import halut
from halut.analysis.assembly import Assembly
from halut.analysis.energy import load_energies
from halut.analysis.plan_cost import plan_cost
from halut.analysis.sensitivity import candidates_of, evaluate
from halut.configs import PQ, Tree
from halut.errors import HalutError
from halut.replace import swap
from halut.replace.operator_registry import config_of
from halut.replace.sharing import same_inputs
from halut.results.record import Record
from halut.search.budget import COUNTED
from halut.search.options import space_of
from halut.sites.calibration import capture
from halut.sites.plan import KEEP, Entry, Plan
from tests.training.digit_attention import NAMES, DigitAttention

CONFIGS = (Tree(C=4, K=8), Tree(C=8, K=4, bits=4), config_of("integer", {"width": 4}))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DigitAttention(10).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def plan(network):
    sites, _ = halut.find_sites(network, torch.zeros(1, 1, 8, 8))
    return Plan(tuple(Entry(site, KEEP, reason="as it is") for site in sites))


def records_of(plan, configs=CONFIGS):
    sites = [entry.site for entry in plan]
    for number, candidate in enumerate(candidates_of(sites, configs)):
        entry = candidate.entry
        yield Record(
            "sensitivity",
            {"model": "digit_attention", "options": {}, "weights": "0"},
            {"name": "digits", "split": "val", "samples": 1, "digest": "0"},
            {} if candidate.reason else {"loss": 0.5 + number, "exact_loss": 0.5},
            site=entry.site.name,
            operator=entry.operator,
            options=entry.options,
            score="measured",
        )


def searched(plan, network, records, share=True, **more):
    inputs = same_inputs(network, torch.zeros(1, 1, 8, 8)) if share else ()
    return space_of(plan, network, records, "loss", load_energies(), inputs=inputs, **more)


def test_sites_of_one_input_are_one_item_whose_losses_add_up(plan, network):
    records = list(records_of(plan))
    apart, space = (searched(plan, network, records, share) for share in (False, True))
    names = [[[site.name for site in g.sites] for g in each.groups] for each in (apart, space)]
    assert names[0] == [["embed"], ["q"], ["k"], ["v"], ["head"]]
    assert names[1] == [["embed"], ["q", "k", "v"], ["head"]]
    expected = sum(apart.groups[i].losses for i in (1, 2, 3))
    assert space.groups[1].losses.tolist() == pytest.approx(expected.tolist())
    assert not space.notes


@pytest.mark.parametrize("option", range(4))
def test_a_plan_costs_what_plan_cost_says_and_the_encoder_once(plan, network, option):
    records = list(records_of(plan))
    apart, space = (searched(plan, network, records, share) for share in (False, True))
    chosen = space.plan_of((0, option, 1))
    shares = "q" if option in (1, 2) else None  # tables alone have an encoder
    assert [chosen[name].shares for name in NAMES] == [shares] * 3
    (cost,) = plan_cost(chosen, network, load_energies(), variants=("plan",))
    costs = space.cost_of((0, option, 1))
    for resource in COUNTED:
        assert costs[resource] == pytest.approx(cost.figures[resource], rel=1e-9), resource
    more = apart.cost_of((0, option, option, option, 1))["operations"]
    assert (more > costs["operations"]) == (shares is not None)


def test_an_option_that_some_cannot_have_is_none_of_all(plan, network):
    tree = [r for r in records_of(plan) if r.operator == "tree" and r.options["K"] == 8]
    records = [r for r in records_of(plan) if r not in tree or r.site != "v"]
    space = searched(plan, network, records)
    operators = [[e.operator for e in entries] for entries in space.groups[1].entries]
    assert operators == [[KEEP] * 3, ["tree"] * 3, ["integer"] * 3]
    (note,) = space.notes
    assert note.startswith("tree is no option of q, k, v")
    assert note.endswith(": v does not have it")
    alone = [r for r in tree if r.site == "q"] + [r for r in records if r.site in ("k", "v")]
    with pytest.raises(HalutError, match="does not have it"):
        searched(plan, network, [r for r in alone if r.site == "q" or r.operator == "integer"])


@pytest.mark.parametrize("config", [Tree(C=4, K=8), PQ(C=4, K=8)], ids=["tree", "pq"])
def test_an_assembly_learns_shared_layers_as_training_does(plan, network, config):
    torch.manual_seed(1)
    images, labels = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))
    batches = [(images, labels)]
    records = list(records_of(plan, [config, CONFIGS[2]]))
    space = searched(plan, network, records)
    assembly = Assembly(network, space.sites, batches, batches)
    for option in (1, 2, 1):  # the second time from what was learned
        chosen = space.plan_of((0, option, 0)).replaced
        oracle = copy.deepcopy(network)
        for entry in chosen:
            rows = capture(network, [entry.site], batches)[entry.site.name]
            swap.replace_site(oracle, entry, rows)
        assembled = assembly.assembled(chosen)
        assert torch.equal(assembled(images), oracle(images))
        measured = assembly.measure(chosen)
        assert measured["loss"] == evaluate(oracle, batches)["loss"]
    assert assembly.assembled(space.plan_of((0, 1, 0)).replaced).v.encoder_shared
