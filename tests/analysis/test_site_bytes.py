"""Bytes of every site before anything is learned, and which tables exceed INT8 weights."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from rich.console import Console
from torch import nn

from halut.analysis.memory import memory_figures, site_bytes
from halut.analysis.network_cost import layer_costs
from halut.analysis.site_bytes import bytes_of_site, plan_bytes
from halut.replace import swap
from halut.replace.operator_registry import operator_names
from halut.replace.policy import Rule, resolve
from halut.replace.sharing import same_inputs, with_sharing
from halut.sites.find import find_sites
from halut.training.report import plan_table


class Three(nn.Module):
    """A 3x3 convolution, a 1x1 one, two Linear layers of one input and a last one."""

    def __init__(self):
        super().__init__()
        self.spatial = nn.Conv2d(1, 32, 3, padding=1)
        self.pointwise = nn.Conv2d(32, 64, 1)
        self.q, self.k = nn.Linear(64, 48), nn.Linear(64, 48)
        self.head = nn.Linear(48, 5)

    def forward(self, x):
        x = self.pointwise(self.spatial(x).relu()).relu().mean((2, 3))
        return self.head(self.q(x) + self.k(x))


def planned(operator="tree", share=False, **options):
    network, x = Three().eval(), torch.zeros(1, 1, 8, 8)
    sites, unsupported = find_sites(network, x)
    rules = [Rule("head"), Rule(operator=operator, options=options)]
    plan = resolve(sites, rules, operator, {}, unsupported)
    return network, with_sharing(plan, same_inputs(network, x)) if share else plan


def printed(plan, width=140) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(plan_table(plan))
    return console.export_text()


def test_1x1_and_linear_layers_take_half_of_their_floats_by_default():
    """V = 8: with K = 16 and 8 bits two bytes of table a weight; 3x3 kernels keep their taps."""
    _, plan = planned()
    assert {e.site.name: e.options["C"] for e in plan.replaced} == {
        "spatial": 1, "pointwise": 4, "q": 8, "k": 8,
    }  # fmt: skip
    by_site = plan_bytes(plan)
    for name in ("pointwise", "q"):
        assert by_site[name].tables == 2 * by_site[name].int8 == 2 * plan[name].site.weights
        assert by_site[name].planned < 0.75 * by_site[name].exact


@pytest.mark.parametrize("operator", operator_names())
def test_the_plan_s_bytes_are_those_of_the_network(operator):
    network, plan = planned(operator)
    by_site = plan_bytes(plan)
    swap.apply(network, plan)
    for _, layer in swap.replaced_layers(network):
        if operator in ("prune", "chain"):  # what they hold is known once the masks are
            layer.calibrate(torch.randn(16, layer.site.D))
    total = sum(by_site[entry.site.name].planned for entry in plan.replaced)
    assert total == site_bytes(memory_figures(network))["replacement_bytes"] > 0
    assert by_site["q"].exact == 4 * (64 * 48 + 48)
    assert by_site["head"].planned == by_site["head"].exact == 4 * (48 * 5 + 5)
    costs = dict(layer_costs(network))
    for entry in plan.replaced:
        assert bytes_of_site(entry.site, costs[entry.site.name]) == by_site[entry.site.name]


def test_a_shared_encoder_counts_once():
    alone, shared = (plan_bytes(planned(share=share)[1]) for share in (False, True))
    assert shared["q"] == alone["q"]
    assert alone["k"].planned - shared["k"].planned == 4 * 8 * (15 + 4)
    network, plan = planned(share=True)
    swap.apply(network, plan)
    total = sum(shared[entry.site.name].planned for entry in plan.replaced)
    assert total == site_bytes(memory_figures(network))["replacement_bytes"]


def test_nothing_is_drawn_and_nothing_changed_by_looking():
    plan = planned()[1]
    before, state = copy.deepcopy(plan), torch.random.get_rng_state()
    plan_bytes(plan)
    assert plan == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_every_site_whose_tables_exceed_int8_weights_is_marked():
    text = printed(planned()[1])
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.count("│") > 3}
    assert "! 2x INT8" in rows["pointwise"]
    assert "! 2x INT8" in rows["q"]
    assert "! 1.78x INT8" in rows["spatial"]
    assert "!" not in rows["head"]
    assert f"{4 * 64 * 33:,} -> " in rows["pointwise"]
    assert "the tables of 4 of 4 sites take more than their INT8 weights" in " ".join(text.split())
    assert "!!" not in text


@pytest.mark.parametrize("options", [{"V": 16}, {"C": 1}, {"V": 8, "bits": 4}, {"V": 8, "K": 8}])
def test_tables_no_larger_than_int8_weights_are_not(options):
    _, plan = planned(**options)
    assert "INT8" not in " ".join(
        line for line in printed(plan).splitlines() if "pointwise" in line or "│ q" in line
    )


def test_sites_that_grow_by_their_encoders_alone_are_marked():
    """Prototypes are K floats an input: a layer of few outputs grows, however small its tables."""
    _, plan = planned("pq", V=16)
    by_site = plan_bytes(plan)
    assert by_site["q"].tables == by_site["q"].int8
    assert (
        by_site["q"].planned == 64 * 48 + 4 * (48 + 48) + 4 * 64 * 16
    )  # tables, scales, prototypes
    assert not by_site["q"].grows
    _, plan = planned("pq", V=16, K=128, bits=2)
    by_site = plan_bytes(plan)
    assert by_site["q"].planned > by_site["q"].exact
    text = " ".join(printed(plan).split())
    assert f"{by_site['q'].exact:,} -> {by_site['q'].planned:,} !!" in text
    assert "!! larger than their floats, with all they hold: spatial, pointwise, q, k" in text


def test_tables_larger_than_floats_are_named():
    text = " ".join(printed(planned(V=4)[1]).split())
    assert "!! 4x INT8" in text
    assert "larger than their floats, with all they hold: spatial, pointwise, q, k" in text
    assert "! 1.78x INT8" not in text  # V = 4 holds for the 3x3 layer too
    assert "!! 5.33x INT8" in text  # nine inputs make three codebooks


def test_codecs_are_no_tables():
    assert "INT8" not in printed(planned("integer", width=16)[1])


def test_the_plan_fits_80_columns():
    text = printed(planned()[1], width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "2x INT8" in text
    for name in ("spatial", "pointwise", "head"):
        assert any(line.startswith(f"│ {name}") for line in text.splitlines())
