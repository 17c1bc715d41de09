"""The best plan within a budget: solved, measured, corrected, until the solution stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import isotonic_regression

from halut.analysis.sensitivity import rank_correlation
from halut.search.budget import Budget
from halut.search.correction import Correction
from halut.search.knapsack import Item, front, solve
from halut.search.options import Space
from halut.search.random_plans import random_plans

Options = tuple[int, ...]
Measure = Callable[[Options], dict[str, float]]
Notify = Callable[[], None]
"""Is called after each plan that was measured."""
MARGIN = 1 + 1e-9
DRAWS = 8
"""Solutions, of which one has to be a plan that was not measured yet."""
NEAR = 2
"""Items in which a plan near the best one differs from it, at most."""
UNIFORM = 5
"""Plans of one option everywhere that are measured for a budget, at most."""


@dataclass(frozen=True)
class Measured:
    """A plan that was measured: its options, costs, the loss that was predicted, and figures
    (accuracy, loss, lost, rise)."""

    options: Options
    costs: dict[str, float]
    predicted: float
    figures: dict[str, float]


@dataclass
class Answer:
    """What a budget gets. `best` is None if no plan is within it; `nearest` then misses least, by
    `missing` of the resource that is exceeded most."""

    budget: Budget
    best: Measured | None = None
    uniform: Measured | None = None
    tried: list[Measured] = field(default_factory=list)
    nearest: Measured | None = None
    missing: tuple[str, float] | None = None


@dataclass(frozen=True)
class Comparison:
    """Random plans beside an answer, which cost at least the share `at_least` of it.

    `plans` by what single sites predict of them, `corrected` by the corrected losses, in their
    order; `figure` is that which both predict.
    """

    plans: list[Measured]
    corrected: list[float]
    at_least: float
    figure: str

    @property
    def best(self) -> Measured | None:
        """The plan of the least loss."""
        return min(self.plans, key=lambda m: m.figures["loss"], default=None)

    @property
    def rank_correlation(self) -> dict[str, float]:
        """Spearman's, of what was measured with the first predictions and with the corrected ones;
        NaN where nothing differs."""
        measured = [m.figures[self.figure] for m in self.plans]
        return {
            "predicted": rank_correlation([m.predicted for m in self.plans], measured),
            "corrected": rank_correlation(self.corrected, measured),
        }


class Search:
    """Plans of a space, each measured once; what is seen corrects what is predicted.

    `measure` returns accuracy, loss, lost and rise of the plan of these options. `figure` is that
    which the space's losses predict: rise, of the loss, or lost, points of accuracy.
    """

    def __init__(self, space: Space, measure: Measure, figure: str = "rise") -> None:
        self.space = space
        self.figure = figure
        self._measure = measure
        self._figures: dict[Options, dict[str, float]] = {}
        self.measured: dict[Options, Measured] = {}
        self.correction = Correction(space.losses)

    def see(self, options: Options) -> Measured:
        """Measure a plan, once, and correct the losses by it."""
        if options not in self.measured:
            predicted = self.correction.predict(options)
            figures = self.figures_of(options)
            self.measured[options] = Measured(
                options, self.space.cost_of(options), predicted, figures
            )
            self.correction.see(options, figures[self.figure])
        return self.measured[options]

    def figures_of(self, options: Options) -> dict[str, float]:
        """What is measured of a plan, which corrects nothing and makes it no answer."""
        if options not in self._figures:
            self._figures[options] = self._measure(options)
        return self._figures[options]

    def within(
        self,
        budget: Budget,
        rounds: int,
        minimize: str = "bytes",
        notify: Notify = lambda: None,
    ) -> Answer:
        """The best plan within a budget after at most `rounds` solutions.

        Solves, measures, corrects and solves again: in turns of all plans, and of those near the
        best so far, since what options lose beside those of a good plan is what its neighbours
        tell, and sums over all sites need not. Where the solution is one that was measured, the
        next is the solution of losses that are drawn as they may be (Thompson 1933), less those
        before it, until none is new. The answer is the best that was measured, by the loss on
        validation data: the best uniform plan, which has one option at all sites, is among them.
        """
        if budget.lost is not None:
            return self._losing(budget, budget.lost, rounds, minimize, notify)
        answer = Answer(budget)
        resources, limits = zip(*budget.limits, strict=True)
        left = np.array(limits) - self.space.rest_of(resources)
        if solve(self._items(resources), left) is None:
            return self._nearest(answer, resources, np.array(limits))
        answer.uniform = self._best_uniform(budget)
        generator = np.random.default_rng(0)
        for turn in range(rounds):
            options = None
            if turn % 2 and (ranked := self.ranked(budget)):
                options = self._next(resources, left, generator, ranked[0].options)
            options = options or self._next(resources, left, generator)
            if options is None:
                break
            answer.tried.append(self.see(options))
            notify()
        answer.best = self.ranked(budget)[0]
        return answer

    def ranked(self, budget: Budget) -> list[Measured]:
        """The measured plans within a budget, by loss."""
        within = [m for m in self.measured.values() if fits(m.costs, budget)]
        return sorted(within, key=lambda m: m.figures["loss"])

    def _next(
        self,
        resources: Sequence[str],
        left: np.ndarray,
        generator: np.random.Generator,
        near: Options | None = None,
    ) -> Options | None:
        """The solution, or one of losses that are drawn, which was not measured yet; of the plans
        within NEAR changes of `near`, if given."""
        losses, found = self.correction.losses(), list[Options]()
        for _ in range(DRAWS):
            items, limits = self.space.items(resources, losses), left.tolist()
            if near is not None:
                items, limits = _counting(items, near, False), [*limits, NEAR]
            for plan in found:
                items, limits = _counting(items, plan, True), [*limits, len(plan) - 1]
            solution = solve(items, limits)
            if solution is None:
                return None
            if solution.options not in self.measured:
                return solution.options
            found.append(solution.options)
            losses = self.correction.draw(generator)
        return None

    def compare(
        self,
        answer: Answer,
        count: int,
        minimize: str = "bytes",
        seed: int = 0,
        notify: Notify = lambda: None,
    ) -> Comparison | None:
        """Up to `count` random plans that cost as much as the best one, measured beside it.

        They are within the budget's limits; of a budget of points, they cost at most what the best
        plan does of `minimize`. They neither correct the losses nor are answers. None if no plan
        is within the budget.
        """
        if answer.best is None:
            return None
        limits = answer.budget.limits
        if answer.budget.lost is not None:
            limits = ((minimize, answer.best.costs[minimize]),)
        resources, bounds = zip(*limits, strict=True)
        left = np.array(bounds) - self.space.rest_of(resources)
        options = answer.best.options
        drawn = random_plans(self.space.items(resources), left, options, count, seed)
        alone = Correction(self.space.losses)
        plans = []
        for plan in drawn.plans:
            costs, figures = self.space.cost_of(plan), self.figures_of(plan)
            plans.append(Measured(plan, costs, alone.predict(plan), figures))
            notify()
        corrected = [self.correction.predict(plan) for plan in drawn.plans]
        return Comparison(plans, corrected, drawn.at_least, self.figure)

    def front(self, resource: str, points: int) -> list[tuple[Options, float, float]]:
        """(options, cost, predicted loss) of the predicted trade-off at `points` budgets."""
        items = self._items([resource])
        rest = float(self.space.rest_of([resource])[0])
        least, most = (sum(f(i.costs[:, 0]) for i in items) for f in (np.min, np.max))
        solutions = front(items, np.linspace(least, most, points).tolist())
        return [(s.options, rest + float(s.costs[0]), s.loss) for s in solutions]

    def points_of(self, predicted: float) -> float | None:
        """Points of accuracy that go with a predicted loss; itself where `figure` is lost.

        Of a rise of the loss: isotonic regression of the points on the rises of all plans that were
        measured, linear between them; None beyond the largest of these rises.
        """
        if self.figure == "lost":
            return predicted
        seen = sorted((f["rise"], f["lost"]) for f in self._figures.values() if f["rise"] > 0)
        rises, lost = np.array([(0.0, 0.0), *seen]).T
        if predicted > rises[-1]:
            return None
        return float(np.interp(predicted, rises, np.maximum(isotonic_regression(lost).x, 0.0)))

    def _items(self, resources: Sequence[str]) -> list[Item]:
        return self.space.items(resources, self.correction.losses())

    def _best_uniform(self, budget: Budget) -> Measured | None:
        """Of the plans of one configuration at all sites, of which the few that are predicted to
        lose least are measured, that of the least loss."""
        fitting = [o for o in self.uniform() if fits(self.space.cost_of(o), budget)]
        likely = sorted(fitting, key=self.correction.predict)[:UNIFORM]
        return min(map(self.see, likely), key=lambda m: m.figures["loss"], default=None)

    def uniform(self) -> Iterable[Options]:
        """The plans that have one configuration at all sites."""
        by_label = [{label: o for o, label in enumerate(g.labels)} for g in self.space.groups]
        common = set(by_label[0]).intersection(*by_label) if by_label else set()
        return [tuple(group[label] for group in by_label) for label in sorted(common)]

    def _nearest(self, answer: Answer, resources: Sequence[str], limits: np.ndarray) -> Answer:
        """The plan of the least factor by which all limits would have to be larger."""
        rest = self.space.rest_of(resources)
        items = self._items(resources)
        low, high = 1.0, 2.0
        while solve(items, limits * high - rest) is None:
            low, high = high, 2 * high
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if solve(items, limits * middle - rest) else (middle, high)
        solution = solve(items, limits * high - rest)
        assert solution is not None
        answer.nearest = self.see(solution.options)
        costs = rest + solution.costs
        worst = int(np.argmax(costs / limits))
        answer.missing = resources[worst], float(costs[worst] - limits[worst])
        return answer

    def _losing(
        self, budget: Budget, lost: float, rounds: int, minimize: str, notify: Notify
    ) -> Answer:
        """The cheapest plan that loses at most so many points, by what was measured.

        Where losses are predicted as rises of the loss, the rise for so many points is by the slope
        of the plans that were measured (`_rise_of`). Where a plan loses more than it may, the next
        may lose less by prediction.
        """
        answer = Answer(budget)
        column = self.space.resources.index(minimize)
        limit = lost if self.figure == "lost" else self._rise_of(lost)
        for _ in range(rounds):
            corrected = self.correction.losses()
            items = [
                Item(group.costs[:, column], np.maximum(losses, 0.0)[:, None])
                for group, losses in zip(self.space.groups, corrected, strict=True)
            ]
            solution = solve(items, [max(limit, 0.0)])
            least = tuple(int(losses.argmin()) for losses in corrected)
            options = solution.options if solution is not None else least
            new = options not in self.measured
            seen = self.see(options)
            answer.tried.append(seen)
            notify()
            if not new:
                break
            if seen.figures["lost"] > lost:
                limit *= max(0.5, lost / max(seen.figures["lost"], 1e-6))
            else:
                limit *= min(1.5, (lost + 1e-6) / max(seen.figures["lost"], 1e-6))
        fitting = [m for m in self.measured.values() if m.figures["lost"] <= lost]
        answer.best = min(fitting, key=lambda m: m.costs[minimize], default=None)
        if answer.best is None:
            answer.nearest = min(self.measured.values(), key=lambda m: m.figures["lost"])
            answer.missing = "lost", answer.nearest.figures["lost"] - lost
        return answer

    def _rise_of(self, lost: float) -> float:
        """The rise of the loss that goes with so many points lost."""
        seen = [m.figures for m in self.measured.values() if m.figures["lost"] > 0]
        if not seen:
            return lost / 30.0  # a point is a rise of 0.03, about, in networks that are right often
        slope = sum(f["rise"] * f["lost"] for f in seen) / sum(f["lost"] ** 2 for f in seen)
        return slope * lost


def _counting(items: Sequence[Item], plan: Options, agreeing: bool) -> list[Item]:
    """The items with one more cost: in how many a plan agrees with `plan`, or else differs."""
    return [
        Item(
            item.losses,
            np.column_stack(
                [item.costs, (np.arange(len(item.losses)) == option) == agreeing],
            ),
        )
        for item, option in zip(items, plan, strict=True)
    ]


def fits(costs: dict[str, float], budget: Budget) -> bool:
    """Whether costs are within all limits of a budget of resources."""
    return all(costs[resource] <= limit * MARGIN for resource, limit in budget.limits)
