"""Random plans against the enumeration of a small space."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from halut.search.knapsack import Item, solve
from halut.search.random_plans import random_plans


def items_of(seed, items, options, resources=1):
    generator = np.random.default_rng(seed)
    return [
        Item(generator.random(options), generator.uniform(1, 100, (options, resources)))
        for _ in range(items)
    ]


def cost_of(items, plan):
    return np.sum([item.costs[o] for item, o in zip(items, plan, strict=True)], axis=0)


def band(items, limits, given, share):
    """All other plans within the limits that cost at least the share of the given one."""
    bounds = np.array(limits)
    tightest = int(np.argmax(cost_of(items, given) / bounds))
    low = share * cost_of(items, given)[tightest]
    every = itertools.product(*(range(len(item.losses)) for item in items))
    costs = {plan: cost_of(items, plan) for plan in every if plan != tuple(given)}
    return {p for p, c in costs.items() if (c <= bounds).all() and c[tightest] >= low}


@pytest.mark.parametrize("limits", [[250.0], [250.0, 260.0]], ids=["one", "two"])
def test_all_plans_of_the_range_are_drawn_and_no_other(limits):
    items = items_of(0, 5, 5, len(limits))
    given = solve(items, limits).options
    expected = band(items, limits, given, 0.97)
    assert len(expected) > 20
    assert set(random_plans(items, limits, given, len(expected)).plans) == expected


@pytest.mark.parametrize("limits", [[200.0], [200.0, 150.0]], ids=["one", "two"])
def test_every_plan_of_the_range_is_as_likely_as_another(limits):
    items = items_of(1, 4, 5, len(limits))
    given = solve(items, limits).options
    expected = sorted(band(items, limits, given, 0.97))
    assert len(expected) > 4
    counts = dict.fromkeys(expected, 0)
    each = max(1200 // len(expected), 20)
    for seed in range(each * len(expected)):
        (plan,) = random_plans(items, limits, given, 1, seed).plans
        counts[plan] += 1
    deviation = sum((n - each) ** 2 / each for n in counts.values())  # chi squared
    freedom = len(expected) - 1
    assert abs(deviation - freedom) < 4 * np.sqrt(2 * freedom)


def test_plans_differ_and_go_by_the_seed():
    items = items_of(2, 30, 12)
    given = solve(items, [1200.0]).options
    drawn = random_plans(items, [1200.0], given, 100, seed=3)
    assert len(set(drawn.plans)) == 100
    assert given not in drawn.plans
    assert drawn.at_least == 0.97
    own = cost_of(items, given)[0]
    assert all(0.97 * own <= cost_of(items, plan)[0] <= 1200 for plan in drawn.plans)
    assert drawn == random_plans(items, [1200.0], given, 100, seed=3)
    assert drawn != random_plans(items, [1200.0], given, 100, seed=4)


def test_several_tight_limits_are_met():
    items = items_of(4, 40, 20, resources=2)
    limits = [900.0, 950.0]  # of about 2,000 that plans cost in the mean
    given = solve(items, limits).options
    drawn = random_plans(items, limits, given, 50)
    assert len(drawn.plans) == 50
    assert drawn.at_least == 0.97
    assert all((cost_of(items, plan) <= limits).all() for plan in drawn.plans)


def test_a_space_of_too_few_plans_gives_those_nearest_in_cost_first():
    items = items_of(3, 3, 3)
    given = solve(items, [160.0]).options
    near, half = (band(items, [160.0], given, share) for share in (0.97, 0.5))
    drawn = random_plans(items, [160.0], given, len(half) - 1)
    assert len(near) < len(half) - 1
    assert near <= set(drawn.plans) <= half
    assert drawn.at_least >= 0.5
    assert len(random_plans(items, [160.0], given, 1000).plans) < 27


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_any_unit_does(scale):
    items = [Item(i.losses, i.costs * scale) for i in items_of(0, 5, 5)]
    given = solve(items, [250.0 * scale]).options
    expected = band(items, [250.0 * scale], given, 0.97)
    assert set(random_plans(items, [250.0 * scale], given, len(expected)).plans) == expected


def test_options_that_cost_nothing_are_drawn_as_well():
    items = [Item(np.zeros(3), np.zeros((3, 1))) for _ in range(2)]
    assert len(random_plans(items, [0.0], (0, 0), 8).plans) == 8


def test_a_limit_that_only_the_cheapest_plan_meets_leaves_no_other():
    items = items_of(4, 5, 5)
    cheapest = tuple(int(item.costs[:, 0].argmin()) for item in items)
    limits = cost_of(items, cheapest)
    assert random_plans(items, limits, cheapest, 10).plans == ()
