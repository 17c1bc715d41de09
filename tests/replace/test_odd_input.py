"""Values and inputs that cannot be are refused in one line, with the network as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import halut
from halut import PQ, HalutError, Integer, Tree


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5))


@pytest.mark.parametrize("config", [Tree(V=4), PQ(V=4), halut.DecisionTree(V=4)])
def test_a_layer_takes_inputs_of_its_own_width(config):
    net = network()
    halut.replace_(net, config, [torch.randn(256, 16)], keep_first=False)
    for shape in ((64, 8), (2, 32)):
        with pytest.raises(HalutError, match=r"0 takes 16 inputs, got x of shape"):
            net(torch.randn(*shape))


@pytest.mark.parametrize("config", [Tree(), PQ(), halut.DecisionTree()])
@pytest.mark.parametrize("shape", [(2, 9, 8, 8), (2, 7, 8, 8), (8, 8, 8), (2, 16, 8, 8)])
def test_a_convolution_takes_maps_of_its_channels(config, shape):
    layer = halut.nn.LUTConv2d(8, 12, 3, padding=1, config=config)
    with pytest.raises(HalutError, match=r"takes maps \[B, 8, H, W\], got"):
        layer(torch.randn(*shape))


def test_a_bundle_that_does_not_fit_leaves_the_network_as_it_was(tmp_path):
    net = network()
    halut.replace_(net, Tree(V=4), [torch.randn(256, 16)], keep_first=False)
    halut.save(net, tmp_path / "mine")
    other = network()
    other[4] = nn.Linear(8, 6)
    x = torch.randn(4, 16)
    before = other(x)
    with pytest.raises(HalutError):
        halut.load_into(other, tmp_path / "mine")
    assert type(other[0]) is nn.Linear
    assert torch.equal(other(x), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tree(C="x"), r"halut\.C must be .*int.*, got 'x'"),
        (lambda: Tree(K="16"), r"halut\.K must be int, got '16'"),
        (lambda: Tree(C=True), r"halut\.C must be"),
        (lambda: Integer(weight=Integer(activation=halut.Binary())).options(), "has no activation"),
        (lambda: Integer(weight=Integer(contraction="popcount")).options(), "has no contraction"),
        (lambda: halut.Chain(codecs=[halut.Prune(), halut.Binary()]), "are names such as prune"),
        (lambda: halut.Chain(codecs="prune"), r"halut\.codecs must be"),
        (lambda: halut.Rule(kernel="x"), "kernel must be two numbers"),
        (lambda: halut.Rule(min_inputs="x"), "min_inputs must be a number"),
        (lambda: halut.Rule(name=5), "name must be text"),
        (lambda: halut.Rule(options=[1]), "options must be a mapping"),
        (lambda: halut.Rule(options={"name": "pq"}), "names its operator by operator"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_given(make, message):
    with pytest.raises(HalutError, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": Tree}, "config is a configuration such as"),
        ({"config": "tree"}, "config is a configuration such as"),
        (
            {"config": Tree(), "calibration": torch.randn(8, 16)},
            r"batches are a list of them: \[x\]",
        ),
        ({"config": Tree(), "rules": ("0", Integer())}, "rules are a list of"),
        ({"config": Tree(), "rules": {"0": Integer()}}, "rules are a list of"),
    ],
)
def test_replace_names_what_it_takes(arguments, message):
    with pytest.raises(HalutError, match=message):
        halut.replace_(network(), **{"calibration": [torch.randn(64, 16)], **arguments})


def test_one_pattern_is_one_pattern_and_a_rule_takes_a_configuration():
    net = network()
    rules = [halut.Rule("0", operator=Integer(width=4))]
    plan = halut.replace_(net, Tree(V=4), [torch.randn(256, 16)], rules=rules, keep="4")
    assert {e.site.name: e.operator for e in plan} == {"0": "integer", "2": "tree", "4": "keep"}
    assert plan["0"].options["weight"]["width"] == 4
