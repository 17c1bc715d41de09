"""Surgery: exact operators change nothing, and a plan replays."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

from halut.replace import swap
from halut.replace.policy import Rule, resolve
from halut.sites.find import find_sites
from halut.sites.operator import ExactLayer, ReplacedLayer
from halut.sites.plan import Plan
from tests.replace.zoo import Shared, plan_of


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("channels_last", [False, True])
def test_exact_operators_keep_every_bit_of_every_geometry(zoo, x, channels_last):
    if channels_last:
        zoo.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = zoo(x)
        plan = plan_of(zoo, x[:1])
        assert len(plan.replaced) == 10
        swap.apply(zoo, plan)
        assert len(list(swap.replaced_layers(zoo))) == 10
        assert torch.equal(zoo(x), expected)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("deit_tiny_patch16_224", 224),
        ("resmlp_12_224", 224),
        ("levit_128s", 224),
        ("tf_efficientnet_lite0", 65),
    ],
)
def test_exact_operators_keep_every_bit_of_known_networks(name, size):
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, num_classes=5).eval()
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # some heads start at zero
                parameter.normal_()
        expected = network(x)
        assert expected.std() > 0
        plan = plan_of(network, x)
        swap.apply(network, plan)
        assert len(list(swap.replaced_layers(network))) == len(plan.entries)
        assert torch.equal(network(x), expected)


def test_weight_and_bias_are_copied_not_shared(zoo, x):
    plan, before = plan_of(zoo, x[:1]), copy.deepcopy(zoo.state_dict())
    source = zoo.grouped
    swap.apply(zoo, plan)
    assert torch.equal(zoo.grouped.weight, before["grouped.weight"].reshape(12, 18))
    assert torch.equal(zoo.grouped.bias, before["grouped.bias"])
    assert zoo.stem.bias is None
    with torch.no_grad():
        zoo.grouped.weight.zero_()
    assert torch.equal(source.weight, before["grouped.weight"])


@pytest.mark.parametrize("operator", ["tree", "pq", "decision_tree", "exact"])
def test_a_replayed_plan_loads_strictly_and_answers_the_same(zoo, x, operator, tmp_path):
    fresh = copy.deepcopy(zoo)
    options = {} if operator == "exact" else {"K": 4}
    plan = plan_of(zoo, x[:1], operator, options, only=["grouped", "same", "head"])
    for entry in plan.replaced:
        generator = torch.Generator().manual_seed(entry.site.D)
        rows = torch.randn(64, entry.site.D * entry.site.groups, generator=generator)
        swap.replace_site(zoo, entry, rows)
    plan.save(tmp_path / "plan.json")
    again = swap.apply(fresh, Plan.load(tmp_path / "plan.json"))
    with torch.no_grad():
        for value in again.state_dict().values():
            value.zero_()
        again.load_state_dict(zoo.state_dict(), strict=True)
        assert torch.equal(again(x), zoo(x))
    assert swap.digest(again) == swap.digest(zoo)


def test_stages_one_after_the_other(zoo, x):
    plan = plan_of(zoo, x[:1], only=["stem", "same", "head"])
    plan = plan.with_stages({"same": 0, "stem": 1, "head": 1})
    swap.apply(zoo, plan, 1)
    assert [name for name, _ in swap.replaced_layers(zoo)] == ["same"]
    expected = zoo.same
    swap.apply(zoo, plan, 2)
    assert [name for name, _ in swap.replaced_layers(zoo)] == ["stem", "same", "head"]
    assert zoo.same is expected
    layers = dict(swap.replaced_layers(zoo))
    swap.apply(zoo, plan)
    assert dict(swap.replaced_layers(zoo)) == layers


def test_a_shared_layer_is_replaced_at_every_place():
    torch.manual_seed(0)
    network, x = Shared().eval(), torch.randn(3, 4)
    expected = network(x)
    plan = plan_of(network, x[:1])
    assert [e.site.rows for e in plan] == [2, 1]
    swap.apply(network, plan)
    assert isinstance(network.first, ExactLayer)
    assert network.second[0] is network.first
    assert torch.equal(network(x), expected)


def test_order_of_children_mode_and_frozen_parameters_stay(zoo, x):
    names = [name for name, _ in zoo.named_children()]
    zoo.train()
    zoo.stem.eval()
    zoo.head.requires_grad_(False)
    swap.apply(zoo, plan_of(zoo, x[:1], "tree", {"K": 2}, only=["stem", "head", "same"]))
    assert [name for name, _ in zoo.named_children()] == names
    assert zoo.same.training
    assert not zoo.stem.training
    assert not any(p.requires_grad for p in zoo.head.parameters())
    assert all(p.requires_grad for p in zoo.same.parameters())


def test_the_digest_distinguishes_networks(zoo):
    before = swap.digest(zoo)
    assert swap.digest(copy.deepcopy(zoo)) == before
    zoo.to(memory_format=torch.channels_last)
    assert swap.digest(zoo) == before  # the layout in memory is no part of it
    with torch.no_grad():
        zoo.head.bias[0] += 2**-20
    assert swap.digest(zoo) != before


def test_the_life_cycle_of_every_replaced_layer(zoo, x):
    swap.apply(zoo, plan_of(zoo, x[:1]))
    for _, layer in swap.replaced_layers(zoo):
        assert isinstance(layer, ReplacedLayer)
        roles = layer.param_groups()
        ids = [id(p) for group in roles.values() for p in group]
        assert sorted(ids) == sorted(id(p) for p in layer.parameters())
        assert layer.cost()["macs"] == layer.site.macs
        assert set(layer.export()) == set(layer.state_dict())


def test_rules_of_several_operators_in_one_network(zoo, x):
    sites, _ = find_sites(zoo, x[:1])
    rules = [Rule("head", operator="pq", options={"K": 2}), Rule("s*", operator="exact")]
    swap.apply(zoo, resolve(sites, rules, "tree", {}))
    kinds = {name: type(layer).__name__ for name, layer in swap.replaced_layers(zoo)}
    assert kinds == {"stem": "ExactLayer", "same": "ExactLayer", "head": "LUTLinear"}
