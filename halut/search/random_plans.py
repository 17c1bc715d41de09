"""Random plans that cost as much as a given one, each as likely as another: drawn by counting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halut.search.knapsack import TOLERANCE, Array, Item

SHARES = (0.97, 0.9, 0.75, 0.5, 0.0)
"""Of the given plan's cost, which random ones cost at least: the next where there are too few."""
BINS = 4096
"""Of the costs between the cheapest plan's and the limit."""
DRAWS = 1024
"""Plans that are drawn at once."""
STALE = 16
"""Times that nothing new is drawn before a share is given up."""


@dataclass(frozen=True)
class RandomPlans:
    """Options of different plans, which cost at least the share `at_least` of the given one."""

    plans: tuple[tuple[int, ...], ...]
    at_least: float


def random_plans(
    items: Sequence[Item],
    limits: Sequence[float] | Array,
    given: Sequence[int],
    count: int,
    seed: int = 0,
) -> RandomPlans:
    """Up to `count` plans beside `given`, drawn uniformly among those that cost about as much.

    They are within all R `limits`, and of the resource of which `given` takes the largest share of
    its limit they cost at least 97 % of what `given` does. Where the space has fewer such plans,
    those come first, and the rest are drawn from a wider range, the least share being returned.
    """
    bounds = np.asarray(limits, dtype=float)
    costs = np.sum([item.costs[o] for item, o in zip(items, given, strict=True)], axis=0)
    tightest = int(np.argmax(costs / np.maximum(bounds, np.finfo(float).tiny)))
    generator = np.random.default_rng(seed)
    plans: dict[tuple[int, ...], None] = {}
    share = SHARES[0]
    for share in SHARES:
        stale = 0
        for drawn in _draws(items, bounds, tightest, share * costs[tightest], generator):
            before = len(plans)
            for plan in map(tuple, drawn.tolist()):
                if plan != tuple(given) and len(plans) < count:
                    plans.setdefault(plan)
            stale = stale + 1 if len(plans) == before else 0
            if stale == STALE or len(plans) == count:
                break
        if len(plans) == count:
            break
    return RandomPlans(tuple(plans), share)


def _draws(
    items: Sequence[Item],
    limits: Array,
    resource: int,
    low: float,
    generator: np.random.Generator,
) -> Iterator[NDArray[np.intp]]:
    """Uniform draws, (n, items) options each, of plans that cost from `low` to their limit of one
    resource, and are within the other limits.

    ways[i][b] counts the plans of the first i items whose costs, each rounded to bins, add up to b
    bins. From a total that is drawn by its count, the options of the last item are drawn by the
    counts of what is left for the others, and so on: each plan of rounded costs is as likely as
    another. Rounding moves a sum by half a bin an item at most: so much wider a range is drawn
    from, and what is out of the range itself is drawn again.

    Few plans may be within the other limits: options are counted with a weight exp(-t c) of their
    other costs c (`_tilts`), and a plan is kept with probability exp(t (sum of c - limit)), so that
    each is as likely as another all the same.
    """
    tilts = _tilts(items, limits)
    tilts[resource] = 0.0
    factors = [np.exp(-((item.costs - item.costs.min(axis=0)) @ tilts)) for item in items]
    costs = [item.costs[:, resource] for item in items]
    least = sum(float(each.min()) for each in costs)
    width = max(limits[resource] - least, np.finfo(float).tiny * BINS) / BINS
    slack = len(items) / 2
    size = int(BINS + np.ceil(slack)) + 1
    with np.errstate(over="ignore"):  # no plan but the cheapest has room
        first = int(np.clip(np.floor((low - least) / width - slack), 0, size - 1))
        bins = [np.rint(np.minimum((c - c.min()) / width, size)).astype(int) for c in costs]
    ways = _ways(bins, factors, size)
    total = ways[-1][first:].sum()
    while total > 0:
        left = first + generator.choice(size - first, DRAWS, p=ways[-1][first:] / total)
        drawn = np.zeros((DRAWS, len(items)), dtype=np.intp)
        for i in reversed(range(len(items))):
            before = left[:, None] - bins[i][None, :]
            counts = np.where(before >= 0, ways[i][np.maximum(before, 0)], 0.0)
            weights = counts * factors[i]
            drawn[:, i] = _choices(weights, generator)
            left = left - bins[i][drawn[:, i]]
        sums = np.sum([item.costs[drawn[:, i]] for i, item in enumerate(items)], axis=0)
        fits = (sums <= limits * (1 + TOLERANCE)).all(axis=1)
        kept = generator.random(DRAWS) < np.exp(np.minimum((sums - limits) @ tilts, 0.0))
        yield drawn[fits & kept & (sums[:, resource] >= low * (1 - TOLERANCE))]


def _tilts(items: Sequence[Item], limits: Array) -> Array:
    """t (R,), not negative: of plans whose options are as likely as exp(-t c), each of its own, as
    many as can be are near the limits that are below the mean of all plans.

    minimize t limits + sum_i log sum_o exp(-t c_i[o]) (Cramer's bound), which is convex.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    scale = np.maximum([item.costs.max(axis=0) for item in items], 0.0).max(axis=0)
    scale[scale == 0] = 1.0
    own = [item.costs / scale for item in items]

    def bound(tilts: Array) -> float:
        exponents = sum(float(logsumexp(-(costs @ tilts))) for costs in own)
        return float(tilts @ (limits / scale)) + exponents

    solution = minimize(bound, np.zeros(len(limits)), bounds=[(0.0, 100.0)] * len(limits))
    return np.asarray(solution.x / scale, dtype=float)


def _ways(bins: Sequence[NDArray[np.intp]], factors: Sequence[Array], size: int) -> list[Array]:
    """Of every number of first items, how many of their plans, by the factors of their options, add
    up to each number of bins below `size`, in a unit of its own: the numbers themselves are too
    large for many items."""
    ways = [np.zeros(size)]
    ways[0][0] = 1.0
    for own, weights in zip(bins, factors, strict=True):
        more = np.zeros(size)
        for count, weight in zip(own, weights, strict=True):
            if count < size:
                more[count:] += weight * ways[-1][: size - count]
        ways.append(more / (more.sum() or 1.0))
    return ways


def _choices(weights: Array, generator: np.random.Generator) -> NDArray[np.intp]:
    """A column of each row, as likely as its weight."""
    sums = weights.cumsum(axis=1)
    points = generator.random(len(weights)) * sums[:, -1]
    return np.asarray((sums <= points[:, None]).sum(axis=1), dtype=np.intp)
