"""`halut bench --device cuda`: the same idea on a GPU, timed by CUDA events."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from halut.bench import cuda_methods, inputs, machine, report
from halut.bench.measure import Settings, result
from halut.bench.method import Method, WrongAnswer
from halut.bench.precision import use_tf32
from halut.bench.suites import Case, chosen
from halut.bench.timing import Timing, summarise
from halut.checkout import commit
from halut.errors import HalutError
from halut.files import write_json

MEASUREMENT = 5e-3
"""Seconds one measurement lasts at least: the launch of the first call is then no matter."""

Clock = Callable[[Callable[[], Any], int], float]
"""clock(run, calls): seconds per call."""


def events(run: Callable[[], Any], calls: int) -> float:
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


def interleaved(
    methods: Mapping[str, Callable[[], Any]], rounds: int, clock: Clock = events
) -> dict[str, Timing]:
    """Every method once per round, as halut.bench.timing does on a CPU."""
    calls = {}
    for name, run in methods.items():
        clock(run, 3)  # compiles kernels, fills caches
        calls[name] = max(1, min(1000, round(MEASUREMENT / max(clock(run, 1), 1e-7))))
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    names = list(methods)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(clock(methods[name], calls[name]))
    return {name: summarise(seconds[name], calls[name]) for name in names}


def measure(
    settings: Settings, device: str = "cuda", clock: Clock = events
) -> tuple[list[dict[str, Any]], list[str]]:
    """(results, what failed): a case that fails does not take the others with it."""
    use_tf32(False)
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    for case in selected(settings):
        try:
            found = cuda_methods.methods(case, device)
            errors = {method.name: method.check(case.name) for method in found}
            with torch.set_grad_enabled(case.op == "train_step"):
                times = interleaved({m.name: m.run for m in found}, settings.rounds, clock)
        except (HalutError, RuntimeError) as error:  # wrong answers; no memory, no kernel
            failures.append(_reason(case, error))
            print(f"failed: {failures[-1]}", file=sys.stderr, flush=True)
            continue
        finally:
            cuda_methods.release(device)
        results += [_entry(case, method, times, errors, device) for method in found]
        line = ", ".join(f"{m.name} {times[m.name].median * 1e6:,.0f} us" for m in found)
        print(f"{case.name}: {line}", file=sys.stderr, flush=True)
    return results, failures


def selected(settings: Settings) -> list[Case]:
    """The cases of these settings."""
    found = cuda_methods.cases(settings.models, settings.size, settings.quick)
    return chosen(found, settings.only)


def bandwidth(rounds: int, clock: Clock = events) -> float:
    """Bytes per second, read and written, of a copy within the device."""
    run = cuda_methods.copying("cuda")
    timing = interleaved({"copy": run}, rounds, clock)["copy"]
    return 2 * cuda_methods.COPY_BYTES / timing.median


def summary(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per suite and other method: the sum of its times over the sum of ours (same shapes)."""
    found: dict[str, dict[str, float]] = {}
    for suite in dict.fromkeys(r["suite"] for r in results):
        rows = [r for r in results if r["suite"] == suite]
        shapes: dict[str, dict[str, float]] = {}
        for row in rows:
            shapes.setdefault(str(row["shape"]), {})[row["method"]] = row["median_us"]
        for name in dict.fromkeys(r["method"] for r in rows if r["method"] != "ours"):
            both = [times for times in shapes.values() if name in times and "ours" in times]
            ratio = sum(t[name] for t in both) / sum(t["ours"] for t in both) if both else None
            if ratio is not None:
                found.setdefault(suite, {})[f"{name}_over_ours"] = ratio
    return found


def main(settings: Settings, arguments: Sequence[str], path: str | None) -> int:
    """Exit code: 0, 1 if anything failed, 2 without a GPU."""
    if not torch.cuda.is_available():
        print(
            "error: --device cuda needs a GPU that torch can use, and there is none here; "
            "--device cpu runs on this machine",
            file=sys.stderr,
        )
        return 2
    results, failures = measure(settings)
    name = torch.cuda.get_device_name()
    document: dict[str, Any] = {
        "schema": 1,
        "machine": {**machine.describe(), **_device()},
        "commit": commit(),
        "command": shlex.join(["python", "-m", "halut.bench", *arguments]),
        "inputs": inputs.DESCRIPTION,
        "copy_bytes_per_second": bandwidth(settings.rounds),
        "summary": summary(results),
        "failures": failures,
        "results": results,
    }
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(report.results_table(results))
    console.print(report.summary_table(document["summary"]))
    print(f"copy: {document['copy_bytes_per_second'] / 1e9:,.0f} GB/s read and written")
    part = "-quick" if settings.quick else "-part" if settings.only else ""
    file = Path(path) if path else Path("benchmarks") / f"cuda-{machine.slug(name)}{part}.json"
    write_json(file, document)
    print(f"saved: {file}")
    return 1 if failures else 0


def _device() -> dict[str, Any]:
    from halut.ops import implementations

    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "cuda": torch.version.cuda,
        "cuda_kernels": implementations("cuda"),
    }


def _entry(
    case: Case,
    method: Method,
    times: Mapping[str, Timing],
    errors: Mapping[str, float | None],
    device: str,
) -> dict[str, Any]:
    found = result(case, method, times[method.name], {"error": errors[method.name]})
    return {**found, "threads": 1, "isa": device}


def _reason(case: Case, error: Exception) -> str:
    if isinstance(error, WrongAnswer):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"{case.name}: {type(error).__name__}: {first}"
