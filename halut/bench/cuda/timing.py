"""GPU timers: events around calls, and around the replay of a CUDA graph."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from halut.analysis.timing import Timing, summarize
from halut.errors import HalutError

MEASUREMENT = 5e-3
"""Seconds one measurement lasts at least: the launch of the first call is then no matter."""
MAX_METHOD_SECONDS = 3.0
"""Seconds one method may take over all rounds; slower ones get fewer rounds, three at least."""
MAX_GRAPH_CALL_SECONDS = 1e-3
"""Seconds of a call up to which launching it may count: it is timed in a CUDA graph as well."""
GRAPH_CALLS = 20
"""Calls of one graph, whose own launch counts little then."""

Run = Callable[[], Any]
Clock = Callable[[Run, int], float]
"""clock(run, calls): seconds per call."""
Capture = Callable[[Run, int], Run]
"""capture(run, calls): what repeats `calls` calls without the host's part in them."""


def events(run: Run, calls: int) -> float:
    """Seconds per call between two CUDA events around `calls` calls, launches included."""
    begin = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3 / calls


def captured(run: Run, calls: int) -> Run:
    """The replay of a CUDA graph of `calls` calls. Raises RuntimeError for what cannot be captured:
    a call that waits for the device."""
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        run()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(calls):
                run()
    finally:
        torch.cuda.set_stream(current)  # a capture that fails leaves its own behind
    return graph.replay


def interleaved(
    methods: Mapping[str, Run], rounds: int, clock: Clock = events
) -> dict[str, Timing]:
    """Every method once per round, as halut.analysis.timing does on a CPU."""
    calls, allowed = {}, {}
    for name, run in methods.items():
        clock(run, 3)  # compiles kernels, fills caches
        once = max(clock(run, 1), 1e-7)
        calls[name] = max(1, min(1000, round(MEASUREMENT / once)))
        allowed[name] = max(
            min(3, rounds), min(rounds, int(MAX_METHOD_SECONDS / (once * calls[name])))
        )
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    names = list(methods)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if turn < allowed[name]:
                seconds[name].append(clock(methods[name], calls[name]))
    return {name: summarize(seconds[name], calls[name]) for name in names}


def replayed(
    methods: Mapping[str, Run],
    times: Mapping[str, Timing],
    rounds: int,
    clock: Clock,
    capture: Capture,
) -> dict[str, float]:
    """Seconds per call, by name, of those methods that are quick and can be captured."""
    graphs: dict[str, Run] = {}
    for name, run in methods.items():
        if times[name].median > MAX_GRAPH_CALL_SECONDS:
            continue
        try:
            graphs[name] = capture(run, GRAPH_CALLS)
        except RuntimeError:  # it has no replay, and is timed by events alone
            continue
    again = interleaved(graphs, rounds, clock) if graphs else {}
    return {name: timing.median / GRAPH_CALLS for name, timing in again.items()}


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raise HalutError in what is inside, between two steps of Python, after this time.

    Only in the main thread of a system with alarms; elsewhere there is no bound.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() != threading.main_thread():
        yield
        return

    def expired(*_: Any) -> None:
        raise HalutError(f"took more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
