"""One option for each item, of least loss within limits: the multiple-choice knapsack, exactly."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halut.errors import HalutError

Array = NDArray[np.float64]
TOLERANCE = 1e-9
"""Of a limit, relative: sums of floats in another order differ by less."""


@dataclass(frozen=True)
class Item:
    """Something of which one option is taken: `losses` of its O options, and their `costs`, (O, R)
    for R resources, none of them negative."""

    losses: Array
    costs: Array


@dataclass(frozen=True)
class Solution:
    """The option taken of each item, its loss, and its costs, (R,)."""

    options: tuple[int, ...]
    loss: float
    costs: Array


def solve(items: Sequence[Item], limits: Sequence[float] | Array) -> Solution | None:
    """The options of least loss whose costs are within the limits; None if there are none.

    minimize sum_i l_i[o_i] subject to sum_i c_i[o_i, r] <= limits[r] for each resource r.

    Options that another of their item beats in everything are left out first; of a single resource,
    those too that the bound of the linear relaxation excludes (Dyer, Riha and Walker 1995). What is
    left is an integer program (HiGHS). Of equal losses, any.

    >>> first = Item(np.array([0.0, 2.0]), np.array([[8.0], [3.0]]))
    >>> second = Item(np.array([0.0, 1.0]), np.array([[8.0], [4.0]]))
    >>> solve([first, second], [12.0]).options
    (0, 1)
    >>> solve([first, second], [6.0]) is None
    True
    """
    bounds = np.asarray(limits, dtype=float)
    if not items:
        return Solution((), 0.0, np.zeros(len(bounds)))
    kept = [undominated(item) for item in items]
    least = np.array([items[i].costs[k].min(axis=0) for i, k in enumerate(kept)])
    if (least.sum(axis=0) > bounds * (1 + TOLERANCE)).any():
        return None
    if len(bounds) == 1:
        kept = _within_bound(items, kept, bounds[0])
    margin = 0.0
    while margin < 1e-3:
        chosen = _integer_program(items, kept, bounds * (1 - margin))
        if chosen is None:
            return None
        solution = _solution(items, chosen)
        if (solution.costs <= bounds * (1 + TOLERANCE)).all():
            return solution
        margin = max(4 * margin, 1e-7)  # the solver's own tolerance let it over the limit
    raise HalutError("the solver exceeds the limits by more than a thousandth")


def front(items: Sequence[Item], limits: Sequence[float]) -> list[Solution]:
    """The solutions of one resource for each limit that can be met, each once, by rising cost."""
    solutions: dict[tuple[int, ...], Solution] = {}
    for limit in sorted(limits):
        solution = solve(items, [limit])
        if solution is not None:
            solutions.setdefault(solution.options, solution)
    best: list[Solution] = []
    for solution in sorted(solutions.values(), key=lambda s: (s.costs[0], s.loss)):
        if not best or solution.loss < best[-1].loss:
            best.append(solution)
    return best


def undominated(item: Item) -> NDArray[np.intp]:
    """Indices of the options than which no other is as good in loss and every cost, by loss."""
    order = np.lexsort((*item.costs.T[::-1], item.losses))
    if item.costs.shape[1] == 1:
        costs = item.costs[order, 0]
        least = np.minimum.accumulate(np.concatenate([[np.inf], costs[:-1]]))
        return np.asarray(order[costs < least], dtype=np.intp)
    kept: list[int] = []
    for index in order:
        if not any((item.costs[k] <= item.costs[index]).all() for k in kept):
            kept.append(int(index))
    return np.array(kept, dtype=np.intp)


def _solution(items: Sequence[Item], chosen: Sequence[int]) -> Solution:
    pairs = list(zip(items, chosen, strict=True))
    loss = float(sum(item.losses[o] for item, o in pairs))
    costs = np.sum([item.costs[o] for item, o in pairs], axis=0)
    return Solution(tuple(int(o) for o in chosen), loss, costs)


def _integer_program(
    items: Sequence[Item], kept: Sequence[NDArray[np.intp]], limits: Array
) -> list[int] | None:
    """The option of each item among those kept; None if none is within the limits."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    losses = np.concatenate([items[i].losses[k] for i, k in enumerate(kept)])
    costs = np.concatenate([items[i].costs[k] for i, k in enumerate(kept)])
    if all(len(k) == 1 for k in kept):
        return [int(k[0]) for k in kept] if (costs.sum(axis=0) <= limits).all() else None
    owner = np.repeat(np.arange(len(items)), [len(k) for k in kept])
    one = csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    scale = np.maximum(limits, np.finfo(float).tiny)
    with _quiet_library():
        result = milp(
            losses,
            constraints=[
                LinearConstraint(one, 1, 1),
                LinearConstraint((costs / scale).T, -np.inf, limits / scale),
            ],
            integrality=np.ones(len(losses)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0},
        )
    if result.x is None:
        return None
    starts = np.cumsum([0, *(len(k) for k in kept)])
    return [
        int(k[np.argmax(result.x[a:b])])
        for k, a, b in zip(kept, starts[:-1], starts[1:], strict=True)
    ]


@contextlib.contextmanager
def _quiet_library() -> Iterator[None]:
    """What a library in C prints goes nowhere: some versions of HiGHS print lines of debugging,
    whatever their options say."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # the process has no standard output
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _within_bound(
    items: Sequence[Item], kept: Sequence[NDArray[np.intp]], limit: float
) -> list[NDArray[np.intp]]:
    """Options of which a solution can consist, one resource.

    The linear relaxation takes increments of each item's lower convex hull by falling slope; the
    slope of the last, y, is the price of the resource. An option whose l + y c is further above its
    item's least than the best solution known is above the relaxation's value is in none.
    """
    hulls = [_hull(items[i].costs[k, 0], items[i].losses[k]) for i, k in enumerate(kept)]
    steps = [
        ((before[1] - after[1]) / (after[0] - before[0]), i, corner, before, after)
        for i, hull in enumerate(hulls)
        for corner, (before, after) in enumerate(itertools.pairwise(hull))
    ]
    steps.sort(key=lambda step: -step[0])
    cost = sum(hull[0][0] for hull in hulls)
    best = relaxed = sum(hull[0][1] for hull in hulls)
    taken, price = [0] * len(hulls), None
    for slope, i, corner, before, after in steps:
        more, less = after[0] - before[0], before[1] - after[1]
        fits = cost + more <= limit
        if price is None:
            relaxed -= less if fits else slope * (limit - cost)
            price = None if fits else slope
        if fits and taken[i] == corner:  # what still fits behind the last step is a solution, too
            taken[i], cost, best = corner + 1, cost + more, best - less
    if price is None:
        return [k[:1] for k in kept]  # the best option of each
    gap = best - relaxed
    slack = 1e-9 * (1.0 + abs(best))
    result = []
    for i, k in enumerate(kept):
        reduced = items[i].losses[k] + price * items[i].costs[k, 0]
        result.append(k[reduced - reduced.min() <= gap + slack])
    return result


def _hull(costs: Array, losses: Array) -> list[tuple[float, float]]:
    """Corners of the lower convex hull of (cost, loss), by rising cost and falling loss."""
    hull: list[tuple[float, float]] = []
    for cost, loss in sorted(zip(costs.tolist(), losses.tolist(), strict=True)):
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (cost - x0) < (loss - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((cost, loss))
    return hull
