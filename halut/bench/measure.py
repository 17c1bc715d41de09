"""Measuring process: `python -m halut.bench.measure SETTINGS.json RESULTS.json`.

A process of its own because oneDNN reads once, when it first runs, which instructions it may use.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from halut.analysis.timing import MIN_MEASUREMENT_SECONDS, Timing, interleaved
from halut.bench import network, suites
from halut.bench.cpu import layer, train_step
from halut.bench.cpu.codec_layers import bit_methods, sign_magnitude_methods
from halut.bench.cpu.table_parts import encode_methods, lookup_methods
from halut.bench.method import Method, WrongAnswer
from halut.bench.suites import Case
from halut.errors import HalutError
from halut.io import write_json
from halut.ops import cpu
from halut.plugins import loading

WITH_INT8 = ("layer", "network")
"""Operations with INT8 products to be compared with."""

SPIN = 40_000
"""Additions of one measurement of the clock: about ten microseconds."""


@dataclass
class Settings:
    """What to measure; plain JSON values."""

    only: list[str] = field(default_factory=list)
    threads: list[int] = field(default_factory=lambda: [1])
    rounds: int = 15
    quick: bool = False
    models: list[str] = field(default_factory=list)
    size: list[int] | None = None
    resnet9_batch: int = 128
    isa: str = "default"
    plugins: list[str] = field(default_factory=list)
    int8_only: bool = False
    """Only what is compared with INT8 products: for the second set of instructions."""


def selected(settings: Settings) -> list[Case]:
    """The cases of these settings. Raises HalutError on names nobody knows."""
    cases = suites.cases(settings.resnet9_batch, settings.quick)
    names = settings.models or ["resnet8" if settings.quick else "resnet18"]
    cases += [network.case_of(name, settings.size, settings.quick) for name in names]
    cases = suites.select_cases(cases, settings.only)
    return [case for case in cases if case.op in WITH_INT8 or not settings.int8_only]


def measure(settings: Settings, announce: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every result. Raises WrongAnswer if a method does not answer what its reference does."""
    results = []
    for case in selected(settings):
        for threads in settings.threads:
            torch.set_num_threads(threads)
            timed = time_case(case, settings)
            announce(f"{case.name}, {threads} thread{'s' if threads > 1 else ''}: {_line(timed)}")
            results += [{**result, "threads": threads, "isa": settings.isa} for result in timed]
    return results


def time_case(case: Case, settings: Settings) -> list[dict[str, Any]]:
    """Check, then time, all methods of one case in turns."""
    candidates = build(case, settings)
    errors = {method.name: method.check(case.name) for method in candidates}
    runs: dict[str, Callable[[], Any]] = {method.name: method.run for method in candidates}
    if case.op == "accumulate" and cpu.cpu_capability() is not None:
        from halut import _kernels as kernels  # type: ignore[attr-defined]

        runs["clock"] = lambda: kernels.spin(SPIN)
    with torch.set_grad_enabled(case.op == "train_step"):
        times = interleaved(runs, settings.rounds, seconds_of(case, settings))
    clock = times.pop("clock", None)
    shared = {} if clock is None else {"clock_ghz": SPIN / clock.best / 1e9}
    return [
        result(case, method, times[method.name], {**shared, "error": errors[method.name]})
        for method in candidates
    ]


def seconds_of(case: Case, settings: Settings) -> float:
    """How long one measurement lasts at least."""
    if settings.quick or case.op == "accumulate":
        return 2e-4  # cycles are counted there: short rounds are the less interrupted
    # A network in use runs again and again, and not after another one that emptied the caches.
    return 5e-2 if case.op == "network" else MIN_MEASUREMENT_SECONDS


def build(case: Case, settings: Settings) -> list[Method]:
    """The methods of a case."""
    if case.op == "train_step":
        return train_step.methods(case)
    with torch.no_grad():
        if case.op == "layer":
            return layer.methods(case, settings.int8_only)
        if case.op == "network":
            return network.methods(case, settings.int8_only)
        alone: dict[str, Callable[[Case], list[Method]]] = {
            "encode": encode_methods,
            "accumulate": lookup_methods,
            "bits": bit_methods,
            "sign_magnitude": sign_magnitude_methods,
        }
        return alone[case.op](case)


def result(case: Case, method: Method, timing: Timing, more: dict[str, Any]) -> dict[str, Any]:
    """One entry of the results."""
    return {
        "op": case.op,
        "suite": case.suite,
        "shape": case.shape,
        "options": case.options,
        "count": case.count,
        "method": method.name,
        "median_us": timing.median * 1e6,
        "spread": timing.spread,
        "best_us": timing.best * 1e6,
        "rounds": timing.rounds,
        "calls": timing.calls,
        **more,
        **method.notes,
    }


def _line(timed: list[dict[str, Any]]) -> str:
    return ", ".join(f"{r['method']} {r['median_us']:,.0f} us" for r in timed)


def main(arguments: list[str]) -> int:
    """Read settings, measure, write results; progress goes to standard error."""
    settings = Settings(**json.loads(Path(arguments[0]).read_text()))
    try:
        loading.load(settings.plugins)
        results = measure(settings, lambda line: print(line, file=sys.stderr, flush=True))
    except HalutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, WrongAnswer) else 2
    write_json(Path(arguments[1]), {"settings": asdict(settings), "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
