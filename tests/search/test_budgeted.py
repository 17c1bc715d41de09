"""Plans within budgets, on spaces whose every plan can be measured."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from halut.search.budget import COUNTED, budgets_of
from halut.search.budgeted import Search, fits
from halut.search.correction import Correction
from halut.search.options import SiteGroup, Space
from halut.sites.find import Site
from halut.sites.plan import KEEP, Entry, Plan

LABELS = (KEEP, "large", "middle", "small")
BYTES = (100.0, 60.0, 30.0, 10.0)
LOSSES = (0.0, 0.1, 0.3, 1.0)


def space(factors=(1.0, 2.0, 0.5, 3.0), rest=7.0, keep=True):
    """Sites of four options each, whose losses alone have these factors."""
    groups = []
    for number, factor in enumerate(factors):
        site = Site(str(number), "linear", D=8, M=2)
        first = 0 if keep else 1
        operators = [KEEP if label == KEEP else "tree" for label in LABELS[first:]]
        entries = tuple((Entry(site, operator),) for operator in operators)
        costs = np.zeros((len(entries), len(COUNTED)))
        costs[:, 0] = BYTES[first:]
        costs[:, COUNTED.index("bops")] = np.arange(len(entries)) ** 2
        losses = factor * np.array(LOSSES[first:])
        groups.append(SiteGroup(entries, LABELS[first:], losses, costs))
    plan = Plan(tuple(Entry(site, KEEP) for group in groups for site in group.sites))
    other = np.zeros(len(COUNTED))
    other[0] = rest
    return Space(plan, tuple(groups), other)


def measure_of(own, interaction=0.0):
    """What plans lose: the sum, and more where neighbors are both replaced."""
    calls = []

    def measure(options):
        calls.append(options)
        losses = [group.losses[o] for group, o in zip(own.groups, options, strict=True)]
        pairs = [a * b for a, b in itertools.pairwise(losses)]
        rise = sum(losses) + interaction * sum(pairs)
        return {"accuracy": 90 - 30 * rise, "loss": 0.2 + rise, "lost": 30 * rise, "rise": rise}

    measure.calls = calls
    return measure


def every(own):
    return itertools.product(*(range(len(group.entries)) for group in own.groups))


@pytest.mark.parametrize("limit", [60, 120, 200, 290, 407, 1000])
@pytest.mark.parametrize("interaction", [0.0, 1.5])
def test_the_best_plan_of_all_is_found(limit, interaction):
    own = space()
    measure = measure_of(own, interaction)
    budget = budgets_of(f"bytes:{limit}")[0]
    answer = Search(own, measure).within(budget, 12)
    assert fits(answer.best.costs, budget)
    assert len(measure.calls) < 20
    reference = measure_of(own, interaction)
    best = min(reference(o)["loss"] for o in every(own) if fits(own.cost_of(o), budget))
    assert answer.best.figures["loss"] <= best * (1.0 if interaction == 0 else 1.1) + 1e-9


def test_what_was_seen_changes_the_plan():
    own = space(factors=(1.0, 1.0))
    first = Search(own, measure_of(own)).within(budgets_of("bytes:80")[0], 1).best.options

    def measure(options):  # what looked best is far worse than the sum of its options
        return {
            **measure_of(own)(options),
            **({"rise": 9.0, "loss": 9.0} if options == first else {}),
        }

    answer = Search(own, measure).within(budgets_of("bytes:80")[0], 8)
    assert answer.best.options != first
    assert len(answer.tried) > 1


def test_a_budget_that_nothing_meets_names_the_nearest():
    own = space(rest=7.0)
    answer = Search(own, measure_of(own)).within(budgets_of("bytes:30")[0], 4)
    assert answer.best is None
    assert answer.nearest.options == (3, 3, 3, 3)
    assert answer.missing == ("bytes", pytest.approx(47 - 30))


def test_several_limits_hold_at_once_and_the_nearest_misses_them_least():
    own = space()
    budget = budgets_of("bytes:300+bops:20")[0]
    best = Search(own, measure_of(own)).within(budget, 8).best
    assert fits(best.costs, budget)
    expected = min(measure_of(own)(o)["loss"] for o in every(own) if fits(own.cost_of(o), budget))
    assert best.figures["loss"] == pytest.approx(expected)
    impossible = budgets_of("bytes:150+bops:4")[0]
    answer = Search(own, measure_of(own)).within(impossible, 8)
    assert answer.best is None
    ratio = lambda o: max(own.cost_of(o)["bytes"] / 150, own.cost_of(o)["bops"] / 4)  # noqa: E731
    assert ratio(answer.nearest.options) == pytest.approx(min(map(ratio, every(own))))


@pytest.mark.parametrize("lost", [0.5, 3.0, 9.0, 30.0])
def test_points_that_may_be_lost_make_the_plan_small(lost):
    own = space()
    answer = Search(own, measure_of(own, 0.5)).within(budgets_of(f"lost:{lost}")[0], 20)
    assert answer.best.figures["lost"] <= lost
    measure = measure_of(own, 0.5)
    least = min(own.cost_of(o)["bytes"] for o in every(own) if measure(o)["lost"] <= lost)
    assert answer.best.costs["bytes"] <= 1.35 * least


@pytest.mark.parametrize("budget", ["bytes:130", "bytes:300", "lost:9"])
def test_scores_in_points_are_corrected_by_points(budget):
    points = space(factors=(30.0, 60.0, 15.0, 90.0))  # what measure_of makes of the losses
    search = Search(points, measure_of(space()), "lost")
    search.within(budgets_of(budget)[0], 8)
    for plan in search.measured.values():
        assert plan.predicted == pytest.approx(plan.figures["lost"])


def test_where_none_may_stay_exact_the_plan_that_loses_least_is_measured():
    own = space(factors=(1.0, 1.0), keep=False)
    order = [SiteGroup(g.entries[::-1], g.labels[::-1], g.losses[::-1], g.costs[::-1])
             for g in own.groups]  # fmt: skip
    turned = Space(own.plan, tuple(order), own.rest)
    answer = Search(turned, measure_of(turned)).within(budgets_of("lost:0.01")[0], 6)
    assert answer.nearest.options == (2, 2)


def test_points_that_no_plan_keeps_are_said():
    own = space(keep=False)
    answer = Search(own, measure_of(own)).within(budgets_of("lost:0.01")[0], 6)
    assert answer.best is None
    assert answer.missing[0] == "lost"
    assert answer.missing[1] > 0


def test_the_best_of_one_option_everywhere_is_among_the_measured():
    own = space()
    answer = Search(own, measure_of(own)).within(budgets_of("bytes:130")[0], 6)
    assert answer.uniform.options == (2, 2, 2, 2)
    assert answer.best.figures["loss"] <= answer.uniform.figures["loss"]


def test_the_front_is_the_predicted_trade_off():
    own = space()
    points = Search(own, measure_of(own)).front("bytes", 50)
    assert points[0][1] == 7 + 40
    assert points[-1][2] == 0
    for options, cost, rise in points:
        assert own.cost_of(options)["bytes"] == pytest.approx(cost)
        assert not any(
            own.cost_of(o)["bytes"] <= cost and measure_of(own)(o)["rise"] < rise - 1e-9
            for o in every(own)
        )


def test_rises_become_points_by_what_was_measured_and_no_further():
    own = space()
    search = Search(own, measure_of(own))  # loses 30 points for a rise of 1
    assert search.points_of(0.5) is None
    largest = search.see((3, 3, 3, 3)).figures["rise"]
    search.figures_of((1, 1, 1, 1))
    for rise in (0.01 * largest, 0.5 * largest, largest):
        assert search.points_of(rise) == pytest.approx(30 * rise)
    assert search.points_of(-0.1) == 0.0
    assert search.points_of(1.01 * largest) is None


def test_points_never_fall_as_the_rise_grows():
    own = space()
    lost = {(1, 1, 1, 1): 5.0, (2, 2, 2, 2): 3.0, (3, 3, 3, 3): 8.0}  # noise: 5 before 3

    def measure(options):
        rise = sum(group.losses[o] for group, o in zip(own.groups, options, strict=True))
        return {"accuracy": 90 - lost[options], "loss": rise, "lost": lost[options], "rise": rise}

    search = Search(own, measure)
    rises = [search.figures_of(options)["rise"] for options in lost]
    assert [search.points_of(rise) for rise in rises] == pytest.approx([4.0, 4.0, 8.0])


def test_predictions_in_points_are_points():
    own = space()
    assert Search(own, measure_of(own), "lost").points_of(1.25) == 1.25


def test_a_correction_takes_a_plan_to_what_was_seen_and_leaves_what_is_kept():
    losses = [np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0])]
    correction = Correction(losses)
    correction.see((1, 1), 4.0)
    assert 3.7 < correction.predict((1, 1)) <= 4.0
    assert correction.losses()[0][0] == 0.0
    assert 2.0 < correction.losses()[0][2] < 4.0  # of a site and a plan that lose more than alone
    assert correction.losses()[0][1] < correction.losses()[0][2]
    assert correction.losses()[0][1] == pytest.approx(correction.losses()[1][1])


def test_a_plan_of_the_space_keeps_what_is_not_searched():
    own = space()
    plan = own.plan_of((0, 1, 2, 3))
    assert [entry.replaced for entry in plan] == [False, True, True, True]


@pytest.mark.parametrize("budget", ["bytes:200", "bytes:300+bops:20", "lost:12"])
def test_random_plans_cost_as_much_and_change_nothing(budget):
    own = space(factors=(1.0, 2.0, 0.5, 3.0, 0.7, 1.3))
    search = Search(own, measure_of(own, interaction=1.5))
    budget = budgets_of(budget)[0]
    answer = search.within(budget, 4)
    measured, corrected = dict(search.measured), search.correction.losses()
    comparison = search.compare(answer, 30)
    assert search.measured == measured
    assert all((a == b).all() for a, b in zip(search.correction.losses(), corrected, strict=True))
    assert len({m.options for m in comparison.plans}) == 30
    for each in comparison.plans:
        if budget.lost is None:
            assert fits(each.costs, budget)
        else:
            assert each.costs["bytes"] <= answer.best.costs["bytes"]
        alone = sum(g.losses[o] for g, o in zip(own.groups, each.options, strict=True))
        assert each.predicted == pytest.approx(alone)
    assert comparison.best.figures["loss"] == min(m.figures["loss"] for m in comparison.plans)
    assert 0.5 < comparison.rank_correlation["predicted"] <= 1


def test_a_budget_that_nothing_meets_is_compared_with_nothing():
    search = Search(space(), measure_of(space()))
    assert search.compare(search.within(budgets_of("bytes:30")[0], 2), 5) is None


def test_a_measured_latency_is_a_resource():
    own = space(factors=(1.0, 2.0), keep=False)
    seconds = [np.array([3e-4, 2e-4, 1e-4]), np.array([2e-4, 3e-4, 1e-4])]
    timed = own.with_latency(seconds, [5e-4, 6e-4], 2e-3)
    assert timed.cost_of((0, 2))["latency"] == pytest.approx(2e-3 - 11e-4 + 4e-4)
    assert timed.cost_of((0, 2))["bytes"] == own.cost_of((0, 2))["bytes"]
    budget = budgets_of("latency:1250u")[0]
    answer = Search(timed, measure_of(timed)).within(budget, 6)
    expected = min(
        (measure_of(timed)(o)["loss"], o) for o in every(timed) if fits(timed.cost_of(o), budget)
    )
    assert answer.best.options == expected[1]


def test_a_correction_of_enough_plans_has_the_losses_that_plans_add_up():
    draw = np.random.default_rng(0)
    alone = [np.array([0.0, *draw.uniform(0.5, 2.0, 4)]) for _ in range(4)]
    together = [losses * draw.uniform(0.7, 2.5) * draw.uniform(0.8, 1.2, 5) for losses in alone]
    correction = Correction(alone)
    plans = [tuple(draw.integers(0, 5, 4)) for _ in range(60)]

    def loss(plan):
        return sum(losses[o] for losses, o in zip(together, plan, strict=True))

    for plan in plans[:40]:
        correction.see(plan, loss(plan))
    assert all(abs(correction.predict(p) - loss(p)) < 0.15 * loss(p) + 0.1 for p in plans[40:])
    mean = np.mean([correction.draw(draw)[2] for _ in range(4000)], axis=0)
    assert mean == pytest.approx(correction.losses()[2], abs=0.1)


def test_where_the_solution_stands_others_are_drawn_and_measured():
    own = space(factors=(1.0, 1.0, 1.0))
    answer = Search(own, measure_of(own)).within(budgets_of("bytes:120")[0], 6)
    assert len({each.options for each in answer.tried}) == len(answer.tried) > 1
    assert all(each.costs["bytes"] <= 120 for each in answer.tried)


def test_every_second_plan_is_near_the_best_so_far():
    own = space(factors=(1.0, 1.3, 0.8, 1.1))
    answer = Search(own, measure_of(own)).within(budgets_of("bytes:160")[0], 8)
    best = answer.uniform
    for turn, tried in enumerate(answer.tried):
        if turn % 2:
            changed = sum(a != b for a, b in zip(tried.options, best.options, strict=True))
            assert 0 < changed <= 2
        best = min(best, tried, key=lambda m: m.figures["loss"])
    assert len(answer.tried) == 8


def test_the_uniform_plan_is_the_best_that_was_measured_not_predicted():
    own = space(factors=(1.0, 1.0))
    measure = measure_of(own)
    asked = budgets_of("bytes:80")[0]
    predicted = Search(own, measure).within(asked, 1).uniform

    def worse(options):
        """The uniform plan that is predicted to lose least loses most."""
        figures = measure(options)
        return {**figures, "loss": 99.0} if options == predicted.options else figures

    uniform = Search(own, worse).within(asked, 1).uniform
    assert uniform.options != predicted.options
    assert uniform.figures["loss"] < 99.0
