"""`halut bench --device cuda`: timing by CUDA events and graphs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from halut.bench import inputs, machine, result_tables
from halut.bench.cuda import floors, methods
from halut.bench.cuda.floors import Ceilings
from halut.bench.cuda.precision import use_tf32
from halut.bench.cuda.timing import (
    Capture,
    Clock,
    bounded,
    captured,
    events,
    interleaved,
    replayed,
)
from halut.bench.measure import Settings, result
from halut.bench.method import WrongAnswer
from halut.bench.suites import Case, select_cases
from halut.errors import HalutError
from halut.io import write_json
from halut.ops import implementations
from halut.training.logging.git import git_revision

CASE_SECONDS = 60.0
"""Most seconds of one case, whatever it learns, checks and times."""


def measure(
    settings: Settings,
    ceilings: Ceilings,
    device: str = "cuda",
    clock: Clock = events,
    capture: Capture | None = captured,
    save: Callable[[list[dict[str, Any]], list[str]], None] = lambda results, failures: None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """(results, what failed): a case that fails does not take the others with it.

    `save` is called with both after every case. `capture` None: no graph is timed.
    """
    use_tf32(False)
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    for case in selected(settings):
        try:
            with bounded(CASE_SECONDS):
                entries = time_case(case, settings, ceilings, device, clock, capture)
            results += entries
            print(f"{case.name}: {_line(entries)}", file=sys.stderr, flush=True)
        except (HalutError, RuntimeError) as error:  # wrong answers; no memory, no kernel, no time
            failures.append(_reason(case, error))
            print(f"failed: {failures[-1]}", file=sys.stderr, flush=True)
        finally:
            methods.release(device)
        save(results, failures)
    return results, failures


def time_case(
    case: Case,
    settings: Settings,
    ceilings: Ceilings,
    device: str,
    clock: Clock,
    capture: Capture | None,
) -> list[dict[str, Any]]:
    """Check all methods of a case, time them by events, and quick ones by their graphs' replay."""
    found = methods.methods(case, device)
    errors = {method.name: method.check(case.name) for method in found}
    runs = {method.name: method.run for method in found}
    again: dict[str, float] = {}
    training = case.op == "train_step"
    with torch.set_grad_enabled(training):
        times = interleaved(runs, settings.rounds, clock)
        if capture and not training:
            again = replayed(runs, times, settings.rounds, clock, capture)
    entries = []
    for method in found:
        floor, replay = ceilings.floor(method.notes), again.get(method.name)
        more = {
            "error": errors[method.name],
            "replay_us": None if replay is None else replay * 1e6,
            "floor_us": None if floor is None else floor * 1e6,
        }
        entry = result(case, method, times[method.name], more)
        entries.append({**entry, "threads": 1, "isa": device})
    return entries


def selected(settings: Settings) -> list[Case]:
    """The cases of these settings. Raises HalutError on names nobody knows."""
    found = methods.cases(settings.models, settings.size, settings.quick)
    return select_cases(found, settings.only, methods.suites())


def summary(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per suite and other method: the sum of its times over that of ours, INT8 over ours in INT8.

    Sums go over the shapes that have both, each as often as a network has it. At each shape both
    times are those of a graph's replay, or both are by events.
    """
    ratios: dict[str, dict[str, float]] = {}
    for suite in dict.fromkeys(r["suite"] for r in results):
        shapes: dict[str, dict[str, dict[str, Any]]] = {}
        for row in (r for r in results if r["suite"] == suite):
            shapes.setdefault(str(row["shape"]), {})[row["method"]] = row
        for name in dict.fromkeys(method for shape in shapes.values() for method in shape):
            ours = "ours_int8" if name == "int8" and _has(shapes, "ours_int8") else "ours"
            pairs = [
                (shape[name].get("count", 1), *_times(shape[name], shape[ours]))
                for shape in shapes.values()
                if name in shape and ours in shape
            ]
            if pairs and name != ours:
                theirs, own = (sum(p[0] * p[i] for p in pairs) for i in (1, 2))
                ratios.setdefault(suite, {})[f"{name}_over_{ours}"] = theirs / own
    return ratios


def _has(shapes: dict[str, dict[str, Any]], method: str) -> bool:
    return any(method in shape for shape in shapes.values())


def _times(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    both = one.get("replay_us"), other.get("replay_us")
    return (one["median_us"], other["median_us"]) if None in both else both  # type: ignore[return-value]


def main(settings: Settings, arguments: Sequence[str], path: str | None) -> int:
    """Exit code: 0, 1 if anything failed, 2 without a GPU."""
    if not torch.cuda.is_available():
        print(
            "error: --device cuda needs a GPU that torch can use, and there is none here; "
            "--device cpu runs on this machine",
            file=sys.stderr,
        )
        return 2
    name = torch.cuda.get_device_name()
    ceilings = floors.measured("cuda", settings.rounds, events)
    part = "-quick" if settings.quick else "-part" if settings.only else ""
    file = Path(path) if path else Path("benchmarks") / f"cuda-{machine.slug(name)}{part}.json"
    document: dict[str, Any] = {
        "schema": 1,
        "machine": {**machine.describe(), **_device()},
        "commit": git_revision(),
        "command": shlex.join(["python", "-m", "halut.bench", *arguments]),
        "inputs": f"{inputs.DESCRIPTION}; {inputs.DRAWN}",
        "copy_bytes_per_second": ceilings.copy,
        "ceilings": ceilings.as_dict(),
    }

    def save(results: list[dict[str, Any]], failures: list[str]) -> None:
        document.update(summary=summary(results), failures=failures, results=results)
        write_json(file, document)

    results, failures = measure(settings, ceilings, save=save)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(result_tables.results_table(results))
    console.print(result_tables.summary_table(document["summary"]))
    for line in ceiling_lines(ceilings):
        print(line)
    print(f"saved: {file}")
    return 1 if failures else 0


def ceiling_lines(ceilings: Ceilings) -> list[str]:
    """The ceilings, one a line."""
    products = [
        f"{name} product: {rate / 1e12:,.0f} tera-operations/s"
        for name, rate in ceilings.products.items()
    ]
    return [f"copy: {ceilings.copy / 1e9:,.0f} GB/s read and written", *products]


def _device() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "cuda": torch.version.cuda,
        "cuda_kernels": implementations("cuda"),
    }


def _line(entries: Sequence[dict[str, Any]]) -> str:
    """Every method's time, that in a graph, and its floor."""
    parts = []
    for row in entries:
        notes = [
            f"{word} {row[key]:,.0f}"
            for word, key in (("in a graph", "replay_us"), ("floor", "floor_us"))
            if row[key] is not None
        ]
        time = f"{row['method']} {row['median_us']:,.0f} us"
        parts.append(f"{time} ({', '.join(notes)})" if notes else time)
    return ", ".join(parts)


def _reason(case: Case, error: Exception) -> str:
    if isinstance(error, WrongAnswer):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"{case.name}: {type(error).__name__}: {first}"
