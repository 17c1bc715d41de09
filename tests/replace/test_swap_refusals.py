"""A plan that does not fit changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from halut.errors import HalutError
from halut.replace import swap
from halut.sites.operator import ExactOperator
from halut.sites.plan import Plan
from tests.replace.zoo import Zoo, plan_of


def unchanged(network, before):
    assert not list(swap.replaced_layers(network))
    assert swap.digest(network) == before


def altered(plan, altered_site, **fields):
    entries = tuple(
        replace(e, site=replace(e.site, **fields)) if e.site.name == altered_site else e
        for e in plan
    )
    return Plan(entries)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"D": 9}, "another network: head has D=7, M=3, linear; the plan says D=9, M=3"),
        ({"M": 4}, "another network: head has D=7, M=3, linear; the plan says D=7, M=4"),
        ({"bias": False}, "another network: head"),
        ({"kind": "conv2d"}, "another network: head"),
        ({"name": "headless"}, "'headless' is not in this network"),
        ({"name": "same.weight"}, "'same.weight' is not in this network"),
    ],
)
def test_a_plan_of_another_network_changes_nothing(zoo, x, fields, message):
    plan, before = plan_of(zoo, x[:1]), swap.digest(zoo)
    with pytest.raises(HalutError, match=message):
        swap.apply(zoo, altered(plan, "head", **fields))
    unchanged(zoo, before)


def test_a_plan_for_another_stride_changes_nothing(zoo, x):
    plan, before = plan_of(zoo, x[:1]), swap.digest(zoo)
    zoo.dilated.stride = (1, 1)
    with pytest.raises(HalutError, match="another network: dilated"):
        swap.apply(zoo, plan)
    unchanged(zoo, before)


def test_a_place_that_is_no_matrix_product(zoo, x):
    plan = plan_of(zoo, x[:1])
    zoo.head = nn.ReLU()
    with pytest.raises(HalutError, match="head is a ReLU, not a site"):
        swap.apply(zoo, plan)
    assert not list(swap.replaced_layers(zoo))


def test_an_operator_that_refuses_late_changes_nothing(zoo, x, monkeypatch):
    plan, before = plan_of(zoo, x[:1]), swap.digest(zoo)
    build = ExactOperator.build

    def refuse(self, site, source=None):
        if site.name == "head":
            raise HalutError("not here")
        return build(self, site, source)

    monkeypatch.setattr(ExactOperator, "build", refuse)
    with pytest.raises(HalutError, match="not here"):
        swap.apply(zoo, plan)
    unchanged(zoo, before)


def test_options_of_another_version_change_nothing(zoo, x):
    plan, before = plan_of(zoo, x[:1], "tree", only=["head"]), swap.digest(zoo)
    bad = Plan(tuple(replace(e, options={**e.options, "future": 1}) if e.replaced else e
                     for e in plan))  # fmt: skip
    with pytest.raises(HalutError, match=r"unknown option halut\.future"):
        swap.apply(zoo, bad)
    unchanged(zoo, before)


def test_replaced_layers_of_another_plan_are_refused(zoo, x):
    swap.apply(zoo, plan_of(zoo, x[:1]))
    other = plan_of(Zoo(), x[:1, :, :, :20])  # other numbers of rows
    with pytest.raises(HalutError, match="another network"):
        swap.apply(zoo, other)
