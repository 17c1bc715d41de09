"""How long the front of a large network takes to solve, once its options are scored.

python benchmarks/search_front.py            (50 sites, 30 options a site, 50 budgets)
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from halut.search.knapsack import Item, front


def items(sites: int, options: int, seed: int) -> list[Item]:
    """Sites whose options cost from a hundredth of the layer to all of it, and lose the more the
    less they cost, by a power and with noise of their own."""
    draw = np.random.default_rng(seed)
    result = []
    for _ in range(sites):
        share = np.sort(draw.uniform(0.01, 1.0, options))
        losses = draw.lognormal(-3, 1) * share ** -draw.uniform(0.5, 1.5)
        costs = np.round(draw.lognormal(10, 1) * share)
        result.append(Item(losses * draw.lognormal(0, 0.3, options), costs[:, None]))
    return result


def main() -> None:
    """Print the median, the least and the most of several networks' times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("sites", 50), ("options", 30), ("budgets", 50), ("repeats", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    own = parser.parse_args()
    seconds, points = [], []
    for seed in range(own.repeats):
        every = items(own.sites, own.options, seed)
        least, most = (sum(f(each.costs[:, 0]) for each in every) for f in (np.min, np.max))
        begun = time.process_time()
        points.append(len(front(every, np.linspace(least, most, own.budgets).tolist())))
        seconds.append(time.process_time() - begun)
    print(
        f"{own.sites} sites, {own.options} options, {own.budgets} budgets: "
        f"{statistics.median(seconds):.2f} s of one core (from {min(seconds):.2f} to "
        f"{max(seconds):.2f} s over {own.repeats} networks), {min(points)} points at least"
    )


if __name__ == "__main__":
    main()
