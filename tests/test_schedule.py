"""Schedules: the order of the sites, and that every one gets exactly one stage."""

from __future__ import annotations

import pytest

from halut.errors import HalutError
from halut.replace.schedule import Stage, assign, block_of, orders, with_encoders_first
from halut.sites.find import Site
from halut.sites.plan import KEEP, Entry, Plan

NAMES = ["stem", "a.0.x", "a.0.y", "a.1.x", "mid", "b.x", "fc"]


@pytest.fixture
def plan():
    entries = [
        Entry(Site(name, "linear", 4, 4), KEEP if name in ("stem", "fc") else "tree")
        for name in NAMES
    ]
    return Plan(tuple(entries))


@pytest.mark.parametrize(
    ("order", "context", "stages"),
    [
        ("all_at_once", {}, [["a.0.x", "a.0.y", "a.1.x", "mid", "b.x"]]),
        ("front_to_back", {}, [["a.0.x"], ["a.0.y"], ["a.1.x"], ["mid"], ["b.x"]]),
        ("front_to_back", {"per_stage": 2}, [["a.0.x", "a.0.y"], ["a.1.x", "mid"], ["b.x"]]),
        ("back_to_front", {"per_stage": 3}, [["b.x", "mid", "a.1.x"], ["a.0.y", "a.0.x"]]),
        (
            "by_sensitivity",
            {"per_stage": 2, "sensitivity": dict(zip(NAMES[1:6], [5, 1, 3, 1, -2], strict=True))},
            [["b.x", "a.0.y"], ["mid", "a.1.x"], ["a.0.x"]],  # equal ones by name
        ),
        (
            "inner_first",
            {"per_stage": 2, "residual": {
                "a.0.x": "inner", "a.0.y": "writer", "a.1.x": "shortcut", "mid": "inner",
                "b.x": "writer"}},
            [["mid", "a.0.x"], ["b.x", "a.0.y"], ["a.1.x"]],
        ),
        ("by_block", {"blocks": ["a.0", "a.1", "b"]},
         [["a.0.x", "a.0.y"], ["a.1.x"], ["mid"], ["b.x"]]),
        ("by_block", {"blocks": ["a", "b"]}, [["a.0.x", "a.0.y", "a.1.x"], ["mid"], ["b.x"]]),
        ("by_block", {}, [["a.0.x", "a.0.y", "a.1.x", "mid", "b.x"]]),
    ],
)  # fmt: skip
def test_orders(plan, order, context, stages):
    assert orders[order](plan.replaced, context) == stages


@pytest.mark.parametrize("order", list(orders))
def test_every_order_replaces_every_site_once(plan, order):
    context = {"sensitivity": dict.fromkeys(NAMES, 0.0), "blocks": ["a"], "per_stage": 2}
    context["residual"] = dict.fromkeys(NAMES, "inner")
    staged = assign(plan, orders[order](plan.replaced, context))
    assert sorted(e.site.name for i in range(staged.stages) for e in staged.stage(i)) == sorted(
        NAMES[1:6]
    )
    assert {e.stage for e in staged if not e.replaced} == {None}


def test_a_block_is_a_module_not_a_prefix_of_letters():
    assert block_of("layer10.x", ["layer1"]) == ""
    assert block_of("layer1", ["layer1"]) == "layer1"
    assert block_of("a.b.c", ["a", "a.b"]) == "a.b"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([NAMES[1:5]], "no stage replaces b.x"),
        ([NAMES[1:6], ["mid"]], "mid is in stages 0 and 1"),
        ([[*NAMES[1:6], "fc"]], "stage 0 names fc, which the plan keeps"),
        ([[*NAMES[1:6], "nobody"]], "no site 'nobody'"),
    ],
)
def test_stages_that_do_not_fit_the_plan(plan, groups, message):
    with pytest.raises(HalutError, match=message):
        assign(plan, groups)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs must be at least 0"),
        ({"calibrate": "exact"}, "unknown schedule.calibrate 'exact'; choose: replaced, original"),
        ({"lr": {"tables": 1.0}}, "unknown role 'tables'; choose from: table, "),
        ({"freeze": ["all"]}, "unknown role 'all'"),
        ({"floor": 1.5}, "floor of a stage must be in 0..1, got 1.5"),
    ],
)
def test_bad_stages(options, message):
    with pytest.raises(HalutError, match=message):
        Stage(["a"], **options)


def test_bad_orders(plan):
    with pytest.raises(
        HalutError, match="unknown schedule order 'sideways'; choose one of: all_at"
    ):
        orders["sideways"]
    with pytest.raises(HalutError, match="per_stage must be at least 1, got 0"):
        orders["front_to_back"](plan.replaced, {"per_stage": 0})
    with pytest.raises(HalutError, match="needs the accuracy lost per site"):
        orders["by_sensitivity"](plan.replaced, {})


def test_encoders_first_makes_two_stages_of_one():
    stages = [
        Stage(["a"], 3, "original", {"table": 0.1}, ["temperature"], 0.2),
        Stage(["b"], 0),
        Stage([], 2),
    ]
    assert with_encoders_first(stages, 0) == stages
    frozen = ["basis", "rest"]
    assert with_encoders_first(stages, 1) == [
        Stage(["a"], 1, "original", {"table": 0.1}, [*frozen, "temperature"], 0.2),
        Stage([], 2, "original", {"table": 0.1}, ["temperature"], 0.2),
        Stage(["b"], 0),
        Stage([], 1, freeze=frozen),
        Stage([], 1),
    ]
    message = "encoders_first must be below the epochs of every stage, got 2: stage 2 has 2"
    with pytest.raises(HalutError, match=message):
        with_encoders_first(stages, 2)
