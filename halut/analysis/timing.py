"""Times of several methods taken in turns, so that a busy machine slows all of them alike.

torch.utils.benchmark.Timer measures one statement to its end before the next: whatever the machine
does meanwhile would count against one method alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MIN_MEASUREMENT_SECONDS = 3e-3
"""Seconds that one measurement lasts at least: quick calls are repeated."""

MAX_METHOD_SECONDS = 6.0
"""Seconds one method may take over all rounds; slower ones get fewer rounds, three at least."""


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median over rounds, their interquartile range over it, the least."""

    median: float
    spread: float
    best: float
    rounds: int
    calls: int
    """Calls of one round, whose mean is the round's time."""


def interleaved(
    methods: Mapping[str, Callable[[], Any]],
    rounds: int,
    measurement: float = MIN_MEASUREMENT_SECONDS,
) -> dict[str, Timing]:
    """Time every method once per round, in an order that moves on by one each round.

    Each method is called once or more before, to warm up and to find how many calls one
    measurement of `measurement` seconds needs.
    """
    calls = {name: _calls(run, measurement) for name, run in methods.items()}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    allowed = dict.fromkeys(methods, rounds)
    names = list(methods)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if turn < allowed[name]:
                seconds[name].append(_measure(methods[name], calls[name]))
                if sum(seconds[name]) * calls[name] > MAX_METHOD_SECONDS:
                    allowed[name] = max(3, turn + 1)
    return {name: summarize(seconds[name], calls[name]) for name in names}


def summarize(seconds: list[float], calls: int = 1) -> Timing:
    """The Timing of a list of rounds."""
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    spread = float((high - low) / median)
    return Timing(float(median), spread, min(seconds), len(seconds), calls)


def _measure(run: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(calls):
        run()
    return (time.perf_counter_ns() - start) * 1e-9 / calls


def _calls(run: Callable[[], Any], measurement: float) -> int:
    """Calls that last `measurement` seconds, by the quicker of two after a first one."""
    if (first := _measure(run, 1)) > 20 * measurement:
        return 1
    seconds = min(first, _measure(run, 1), _measure(run, 3))
    return max(1, round(measurement / max(seconds, 1e-9)))
