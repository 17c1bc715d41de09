"""Policies: precedence, patterns, and every way in which a rule can be wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.errors import HalutError
from halut.replace.policy import Rule, excluding_rules, matches_name, resolve, simple_rules
from halut.sites.find import Unsupported, find_sites


@pytest.fixture(scope="module")
def sites():
    network = nn.Sequential()
    network.add_module("stem", nn.Conv2d(3, 8, 3))
    block = nn.Sequential()
    block.add_module("depth", nn.Conv2d(8, 8, 3, groups=8))
    block.add_module("group", nn.Conv2d(8, 8, 3, groups=2))
    block.add_module("point", nn.Conv2d(8, 16, 1))
    network.add_module("block", block)
    network.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    network.add_module("mid", nn.Linear(16, 12))
    network.add_module("fc", nn.Linear(12, 4))
    return find_sites(network, torch.zeros(1, 3, 12, 12))[0]


def becomes(sites, rules, operator="tree", options=None, unsupported=()):
    plan = resolve(sites, rules, operator, options or {}, unsupported)
    return {entry.site.name: entry.operator for entry in plan}


NAMES = ["stem", "block.depth", "block.group", "block.point", "mid", "fc"]


def test_by_default_all_but_first_last_and_depthwise(sites):
    assert becomes(sites, simple_rules(sites)) == dict(
        zip(NAMES, ["keep", "keep", "tree", "tree", "tree", "keep"], strict=True)
    )


def test_every_kept_site_has_a_reason(sites):
    plan = resolve(sites, simple_rules(sites, keep=["mid"], only=["block.*"]), "tree", {})
    assert {e.site.name: e.reason for e in plan if not e.replaced} == {
        "stem": "not in policy.only",
        "block.depth": "depthwise (policy.keep_depthwise)",
        "mid": "policy.keep",
        "fc": "not in policy.only",
    }
    plan = resolve(sites, simple_rules(sites), "tree", {})
    assert plan["stem"].reason == "first layer (policy.keep_first)"
    assert plan["fc"].reason == "last layer (policy.keep_last)"
    plan = resolve(sites, [Rule("mid", operator=None)], "tree", {})
    assert plan["fc"].reason == "no rule matches"


@pytest.mark.parametrize(
    ("options", "replaced"),
    [
        ({"keep_first": False}, {"stem", "block.group", "block.point", "mid"}),
        ({"keep_last": False}, {"block.group", "block.point", "mid", "fc"}),
        ({"keep_depthwise": False}, {"block.depth", "block.group", "block.point", "mid"}),
        ({"keep": ["block.*"]}, {"mid"}),
        ({"only": ["mid", "stem"]}, {"mid"}),  # keep_first comes before only
        ({"kinds": ["linear"]}, {"mid"}),
        ({"kinds": ["pointwise", "grouped"]}, {"block.point", "block.group"}),
        ({"only": ["block.*"], "kinds": ["spatial"]}, {"block.group"}),
    ],
)
def test_short_options(sites, options, replaced):
    actual = becomes(sites, simple_rules(sites, **options))
    assert {name for name, operator in actual.items() if operator != "keep"} == replaced


def test_the_first_match_wins(sites):
    rules = [
        Rule("block.point", operator="pq"),
        Rule("block.*", operator="keep"),
        Rule("*", operator=None),
    ]
    expected = ["tree", "keep", "keep", "pq", "tree", "tree"]
    assert becomes(sites, rules) == dict(zip(NAMES, expected, strict=True))
    assert becomes(sites, rules[::-1]) == dict.fromkeys(NAMES, "tree")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("layer1.*.conv?", "layer1.0.conv2", True),
        ("layer1.*", "layer1.0.conv2", True),
        ("layer1", "layer1.0", False),
        ("conv[12]", "conv2", True),
        ("conv[12]", "conv3", False),
        ("CONV1", "conv1", False),
        ("/layer[12]\\..*conv1/", "layer2.0.conv1", True),
        ("/layer[12]/", "layer2.0.conv1", False),  # the whole name, not a part of it
        ("/.*(q|k)/", "attn.k", True),
        ("/", "x", False),
    ],
)
def test_patterns(pattern, name, matches):
    assert matches_name(pattern, name) is matches


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ({"kind": "linear"}, {"mid", "fc"}),
        ({"kind": "conv2d"}, {"stem", "block.depth", "block.group", "block.point"}),
        ({"kind": "pointwise"}, {"block.point"}),
        ({"kind": "spatial"}, {"stem", "block.depth", "block.group"}),
        ({"kind": "depthwise"}, {"block.depth"}),
        ({"kind": "grouped"}, {"block.depth", "block.group"}),
        ({"kernel": (1, 1)}, {"block.point"}),
        ({"kernel": [3, 3], "kind": "grouped"}, {"block.depth", "block.group"}),
        ({"min_inputs": 27}, {"stem", "block.group"}),
        ({"min_inputs": 12, "max_inputs": 16}, {"mid", "fc"}),
        ({"name": "block.*", "max_inputs": 9}, {"block.depth", "block.point"}),
    ],
)
def test_conditions(sites, condition, names):
    assert {site.name for site in sites if Rule(**condition).matches(site)} == names


def test_a_pattern_that_matches_nothing_names_close_ones(sites):
    with pytest.raises(HalutError, match=r"'block\.pint' matches no layer.*block\.point"):
        resolve(sites, simple_rules(sites, keep=["block.pint"]), "tree", {})


def test_a_pattern_may_name_a_layer_that_cannot_be_replaced(sites):
    rules = simple_rules(sites, keep=["attention.out"])
    with pytest.raises(HalutError, match="matches no layer"):
        resolve(sites, rules, "tree", {})
    unsupported = [Unsupported("attention.out", "a subclass")]
    plan = resolve(sites, rules, "tree", {}, unsupported)
    assert plan.unsupported == {"attention.out": "a subclass"}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("/[/", operator=None), r"/\[/ is not a regular expression"),
        (Rule(kind="recurrent", operator=None), "unknown kind 'recurrent'; choose one of: linear"),
        (Rule(operator="keep"), r"replaces nothing: no site matches.*stem: rule '\*'"),
        (Rule("mid", operator="trees"), r"unknown operator 'trees'; did you mean tree"),
    ],
)
def test_bad_rules(sites, rule, message):
    with pytest.raises(HalutError, match=message):
        resolve(sites, [rule], "tree", {})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mid", {"c": 3}, r"unknown option halut\.c; choose from: .*C"),
        ("mid", {"C": "3"}, r"halut\.C must be .*int.*, got '3'"),
        ("mid", {"K": True}, r"halut\.K must be int, got True"),
        ("mid", {"C": 17}, r"mid has 16 inputs: C must be in 1\.\.16, got 17"),
        ("block.group", {"C": 37}, r"group has 36 inputs per group: C must be in 1\.\.36, got 37"),
        ("mid", {"C": 0}, r"halut\.C must be at least 1, got 0"),
        ("mid", {"V": 0}, r"halut\.V must be at least 1, got 0"),
        ("mid", {"C": 2, "V": 2}, r"give halut\.C or halut\.V, not both"),
        ("mid", {"K": 12}, r"K must be a power of two in 2\.\.256.*12"),
        ("mid", {"K": 512}, r"halut\.K must be in 2\.\.256, got 512"),
        (
            "mid",
            {"estimator": "soft"},
            r"encoder 'tree' has no estimator 'soft'; choose one of: flip, tree",
        ),
        ("mid", {"bits": 9}, r"halut\.bits must be in 2\.\.8"),
        ("mid", {"scale": "row"}, r"unknown halut\.scale 'row'; choose one of: layer"),
        ("mid", {"ridge": 0.0}, r"halut\.ridge must be above 0"),
        ("mid", {"tau": -1.0}, r"halut\.tau must be positive"),
        ("mid", {"candidates": 0}, "candidates must be at least 1"),
    ],
)
def test_bad_options(sites, name, options, message):
    with pytest.raises(HalutError, match=message):
        resolve(sites, [Rule(name, operator=None)], "tree", options)
    with pytest.raises(HalutError, match=message):
        resolve(sites, [Rule(name, operator="tree", options=options)], "pq", {})


def test_no_sites_at_all():
    with pytest.raises(HalutError, match="no layer"):
        resolve([], simple_rules([]), "tree", {})


def test_options_are_laid_over_those_of_the_default_operator(sites):
    rules = [
        Rule("mid", operator=None, options={"K": 4}),
        Rule("fc", operator="tree", options={"bits": 4}),
        Rule("block.point", operator="pq"),  # another operator starts from its own defaults
    ]
    plan = resolve(sites, rules, "tree", {"K": 32, "C": 2})
    actual = {
        e.site.name: (e.options["C"], e.options["K"], e.options["bits"]) for e in plan.replaced
    }
    assert actual == {"mid": (2, 4, 8), "fc": (2, 32, 4), "block.point": (1, 16, 8)}


def test_a_plan_holds_every_option_and_c_as_it_is(sites):
    from halut.replace.operator_registry import make_operator

    plan = resolve(sites, simple_rules(sites, keep_first=False), "tree", {})
    assert {e.site.name: e.options["C"] for e in plan.replaced} == {
        "stem": 3, "block.group": 4, "block.point": 1, "mid": 2,
    }  # fmt: skip
    for entry in plan.replaced:
        again = make_operator(entry.operator, **entry.options)
        assert again.plan_options(entry.site) == entry.options
        assert set(entry.options) >= {"K", "bits", "scale", "estimator", "ridge", "tau_per"}
    assert {e.options["C"] for e in resolve(sites, [Rule("mid", operator=None)], "tree",
                                            {"V": 5}).replaced} == {4}  # fmt: skip


def test_an_operator_may_decline_a_site(sites, monkeypatch):
    from halut.sites.operator import ExactOperator

    monkeypatch.setattr(
        ExactOperator, "supports", lambda self, site: "no bias here" if site.name == "mid" else None
    )
    plan = resolve(sites, [Rule(operator="exact")], "tree", {})
    assert plan["mid"].operator == "keep"
    assert plan["mid"].reason == "no bias here"
    assert plan["fc"].operator == "exact"


def test_only_holds_whatever_the_rules_say(sites):
    excluding = excluding_rules(sites, [], ["block.group"])
    every = Rule(operator="pq", options={"K": 4})

    assert becomes(sites, [*excluding, every]) == {
        name: "pq" if name == "block.group" else "keep" for name in NAMES
    }
    assert excluding_rules(sites, [], []) == []
