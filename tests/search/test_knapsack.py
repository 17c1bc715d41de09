"""The multiple-choice knapsack against all combinations, and the whole front of many items."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from halut.search.knapsack import Item, front, solve, undominated


def items_of(seed, items, options, resources=1, whole=True):
    random = np.random.default_rng(seed)
    made = []
    for _ in range(items):
        costs = random.integers(0, 50, (options, resources)).astype(float)
        losses = random.integers(-5, 40, options) / 4 if whole else random.normal(size=options)
        made.append(Item(losses.astype(float), costs))
    return made


def by_all_combinations(items, limits):
    best = None
    for chosen in itertools.product(*(range(len(item.losses)) for item in items)):
        cost = sum(item.costs[o] for item, o in zip(items, chosen, strict=True))
        loss = sum(item.losses[o] for item, o in zip(items, chosen, strict=True))
        if (cost <= np.array(limits)).all() and (best is None or loss < best):
            best = loss
    return best


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("whole", [True, False], ids=["ties", "reals"])
def test_one_resource_is_solved_as_all_combinations_say(seed, whole):
    items = items_of(seed, 5, 5, whole=whole)
    least = sum(item.costs.min() for item in items)
    for limit in (least - 1, least, least + 3, least + 20, least + 60, 1e4):
        solution, best = solve(items, [limit]), by_all_combinations(items, [limit])
        assert (solution is None) == (best is None)
        if solution is not None:
            assert solution.loss == pytest.approx(best)
            assert solution.costs[0] <= limit
            recount = sum(i.losses[o] for i, o in zip(items, solution.options, strict=True))
            assert solution.loss == pytest.approx(recount)


@pytest.mark.parametrize("seed", range(8))
def test_several_resources_are_solved_as_all_combinations_say(seed):
    items = items_of(seed, 4, 5, resources=3)
    for share in (0.2, 0.4, 0.7):
        limits = [share * sum(item.costs[:, r].max() for item in items) for r in range(3)]
        solution, best = solve(items, limits), by_all_combinations(items, limits)
        assert (solution is None) == (best is None)
        if solution is not None:
            assert solution.loss == pytest.approx(best)
            assert (solution.costs <= limits).all()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_limits_hold_exactly_in_any_unit(scale):
    items = [Item(item.losses, item.costs * scale) for item in items_of(3, 8, 6, whole=False)]
    for limit in np.linspace(60, 250, 9) * scale:
        solution = solve(items, [limit])
        assert solution is None or solution.costs[0] <= limit * (1 + 1e-9)


def test_an_option_that_another_beats_is_left_out():
    item = Item(np.array([1.0, 1.0, 2.0, 0.5]), np.array([[4.0], [3.0], [2.0], [9.0]]))
    assert sorted(undominated(item)) == [1, 2, 3]


def test_the_front_falls_in_loss_and_rises_in_cost_and_holds_every_limit():
    items = items_of(1, 12, 8, whole=False)
    limits = np.linspace(0, 600, 40)
    solutions = front(items, limits)
    costs, losses = ([f(s) for s in solutions] for f in (lambda s: s.costs[0], lambda s: s.loss))
    assert len(solutions) > 5
    assert costs == sorted(set(costs))
    assert losses == sorted(set(losses), reverse=True)
    for limit in limits:
        alone = solve(items, [limit])
        if alone is not None:
            best = min(s.loss for s in solutions if s.costs[0] <= limit * (1 + 1e-9))
            assert best == pytest.approx(alone.loss)


def test_no_items_cost_nothing():
    assert solve([], [1.0]).options == ()


def test_the_solver_prints_nothing(capfd):
    """HiGHS prints lines of debugging about some of these, whatever its options say."""
    draw = np.random.default_rng(0)
    items = []
    for _ in range(50):
        share = np.sort(draw.uniform(0.01, 1.0, 30))
        losses = draw.lognormal(-3, 1) * share ** -draw.uniform(0.5, 1.5)
        costs = np.round(draw.lognormal(10, 1) * share)
        items.append(Item(losses * draw.lognormal(0, 0.3, 30), costs[:, None]))
    least, most = (sum(f(item.costs) for item in items) for f in (np.min, np.max))
    front(items, np.linspace(least, most, 50).tolist())
    print("after")
    assert capfd.readouterr().out == "after\n"
