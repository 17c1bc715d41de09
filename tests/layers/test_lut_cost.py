"""Cost figures, worked out by hand: tokens and positions are counted, and groups."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from halut.analysis.network_cost import exact_cost, operations, replaced_cost
from halut.replace import swap
from halut.replace.operator_registry import make_operator
from halut.replace.policy import Rule, resolve
from halut.sites.find import Site, find_sites
from halut.sites.plan import Plan


def layer_cost(source, shape, operator="tree", **options):
    site = find_sites(nn.Sequential(source), torch.zeros(shape))[0][0]
    return make_operator(operator, **options).build(site, source).cost()


def test_a_linear_over_tokens():
    cost = layer_cost(nn.Linear(32, 10), (1, 7, 32), C=8, K=16)
    assert cost == {
        "macs": 0,
        "encode_compares": 7 * 8 * 4,
        "encode_macs": 0,
        "encode_adds": 0,
        "lookups": 7 * 8 * 10,
        "adds": 7 * 8 * 10,
        "bops": 32 * 7 * 8 * 4 + 8 * 2 * 7 * 8 * 10,  # float compares; 8-bit look-ups and adds
        "encode_bops": 32 * 7 * 8 * 4,
        "weight_bytes": 4 * 10 + 4 * 10,  # bias with zero points, a scale per output
        "table_bytes": 8 * 16 * 10,
        "weight_bits": 8 * 16 * 10 * 8 + 10 * 32,  # tables, a scale per output
        "encoder_bytes": 4 * 8 * (15 + 4),
        "index_bits": 7 * 8 * 4,
    }


def test_a_grouped_convolution():
    """2 groups of 4 channels -> 6: per group C codebooks and 3 outputs."""
    cost = layer_cost(nn.Conv2d(8, 6, 3, 2, 1, groups=2), (1, 8, 8, 8), K=8, bits=4)
    rows, C = 4 * 4, 4  # V = 9: one codebook per input channel
    assert cost["encode_compares"] == rows * 2 * C * 3
    assert cost["bops"] == 32 * rows * 2 * C * 3 + 4 * 2 * rows * C * 6
    assert cost["lookups"] == cost["adds"] == rows * C * 6
    assert cost["table_bytes"] == C * 8 * 6 * 4 // 8
    assert cost["index_bits"] == rows * 2 * C * 3
    assert cost["encoder_bytes"] == 4 * 2 * C * (7 + 3)


def test_nearest_prototypes_and_float_tables():
    source = nn.Linear(12, 5, bias=False)
    cost = layer_cost(source, (1, 3, 12), "pq", C=4, K=10, bits=None)
    assert cost["encode_macs"] == 3 * 12 * 10
    assert cost["encode_compares"] == 3 * 4 * 9  # the least of ten distances
    assert cost["encode_bops"] == 32 * 32 * 3 * 12 * 10 + 32 * 3 * 4 * 9
    assert cost["bops"] == cost["encode_bops"] + 32 * 2 * 3 * 4 * 5
    assert cost["table_bytes"] == 4 * 4 * 10 * 5
    assert cost["weight_bytes"] == 0
    assert cost["weight_bits"] == 32 * 4 * 10 * 5
    assert cost["encoder_bytes"] == 4 * 12 * 10
    assert cost["index_bits"] == 3 * 4 * 4  # ceil(log2 10)


@pytest.mark.parametrize(("scale", "scales"), [("layer", 1), ("channel", 5), ("codebook", 4)])
def test_scales_are_held_too(scale, scales):
    cost = layer_cost(nn.Linear(12, 5, bias=False), (1, 12), C=4, scale=scale)
    assert cost["weight_bytes"] == 4 * (5 + scales)
    assert cost["weight_bits"] == 8 * 4 * 16 * 5 + 32 * scales


def test_a_decision_tree_tests_a_column_of_its_own_per_node():
    cost = layer_cost(nn.Linear(12, 5), (1, 12), "decision_tree", C=4, K=16)
    assert (cost["encode_compares"], cost["encode_macs"]) == (4 * 4, 0)
    assert cost["encoder_bytes"] == 8 * 4 * 15


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))


def test_a_whole_network_exact_and_replaced():
    network = Net()
    sites, _ = find_sites(network, torch.zeros(1, 1, 5, 5))
    plan = resolve(sites, [Rule("conv", operator="tree", options={"K": 4})], "tree", {})
    exact = exact_cost(plan, network)
    parameters = 36 + 8 + 10
    assert exact == {
        "macs": 25 * 36 + 8, "encode_compares": 0, "encode_macs": 0, "encode_adds": 0,
        "lookups": 0, "adds": 0, "weight_bytes": 4 * parameters, "table_bytes": 0,
    }  # fmt: skip
    replaced = replaced_cost(plan, swap.apply(copy.deepcopy(network), plan))
    assert replaced == {
        "macs": 8,
        "encode_compares": 25 * 2,
        "encode_macs": 0,
        "encode_adds": 0,
        "lookups": 25 * 4,
        "adds": 25 * 4,
        # batch norm and fc; zero points and scales of 4 outputs; 3 thresholds and 2 columns
        "weight_bytes": 4 * 18 + 4 * (4 + 4) + 4 * (3 + 2),
        "table_bytes": 4 * 4,
    }
    assert operations(exact) == 25 * 36 + 8
    assert operations(replaced) == 8 + 25 * 2 + 25 * 4


@pytest.mark.parametrize(
    ("metric", "compares", "macs", "adds"),
    [("l1", 0, 0, 2), ("chebyshev", 1, 0, 1), ("l2", 0, 1, 0)],
)
def test_distances_without_products_have_no_multiply_adds(metric, compares, macs, adds):
    cost = layer_cost(nn.Linear(12, 5), (1, 3, 12), "pq", C=4, K=10, metric=metric)
    each, least = 3 * 12 * 10, 3 * 4 * 9
    assert cost["encode_compares"] == compares * each + least
    assert (cost["encode_macs"], cost["encode_adds"]) == (macs * each, adds * each)
    assert cost["encode_bops"] == 32 * ((compares + adds + 32 * macs) * each + least)


def test_bit_operations_grow_with_the_codebooks():
    """Of tables whose adds and look-ups are what there is, of trees and of prototypes alike."""
    for operator in ("tree", "pq", "decision_tree"):
        few, many = (layer_cost(nn.Linear(32, 10), (1, 32), operator, C=C) for C in (4, 8))
        assert 0 < few["bops"] < many["bops"]
    few, many = (layer_cost(nn.Linear(32, 10), (1, 32), "tree", C=C) for C in (4, 8))
    assert 2 * few["bops"] == many["bops"]


def test_exact_operators_cost_what_the_network_costs():
    network = Net()
    sites, _ = find_sites(network, torch.zeros(1, 1, 5, 5))
    plan = resolve(sites, [Rule(operator="exact")], "exact", {})
    exact = exact_cost(plan, network)
    assert replaced_cost(plan, swap.apply(network, plan)) == exact


def test_the_batch_is_not_counted():
    site = Site("s", "linear", 4, 2, rows=197)
    assert site.macs == 197 * 8
    plan = Plan(tuple(resolve([site], [Rule(operator="tree")], "tree", {}).entries))
    assert plan["s"].options["C"] == 1
