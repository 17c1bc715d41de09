"""Time ratios of other methods to ours within one run.

A suite's ratio is that of the sums over its shapes, each as often as the network has it. Of float32
baselines the fastest at each shape counts; of ours the memory format that is best for all shapes.
Top-level entries are those of one thread, `threads_2` those of two, and so on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from halut.bench.machine import cpu_flags

Result = dict[str, Any]

FLOAT32 = ("float32", "float32_channels_last")
EXACT = ("exact_float32", "exact_float32_channels_last")
OURS = (("ours", "ours_channels_last"),)
OURS_INT8 = (("ours_int8", "ours_int8_channels_last"), *OURS)
"""What is compared with INT8: from int8 to int8 as INT8 is, where that is measured."""

LAYERS = ("resnet18_3x3", "resnet9_3x3", "linear_v16", "linear_v8")
BITS = ("bits_1_1", "bits_2_2", "bits_3_3")
PORT_CODEBOOKS = 64
"""Codebooks from which the accumulate kernel is held against its limit."""


def summarize(results: Sequence[Result], level: str | None, amx: bool) -> dict[str, Any]:
    """The ratios, by thread count. `level`: the kernels' instruction set.

    On a CPU with AMX, results of isa `default` are INT8 by AMX and count as over_int8_amx; those of
    isa `vnni` are what over_int8 means everywhere.
    """
    threads = sorted({result["threads"] for result in results})
    by_threads = {
        t: _ratios([r for r in results if r["threads"] == t], level if t == 1 else None, amx)
        for t in threads
    }
    summary = dict(by_threads.pop(1, {}))
    summary.update({f"threads_{t}": ratios for t, ratios in by_threads.items() if ratios})
    return summary


def _ratios(results: list[Result], level: str | None, amx: bool) -> dict[str, Any]:
    by_suite: dict[str, dict[str, Any]] = defaultdict(dict)
    suites = [
        *LAYERS,
        *BITS,
        "sign_magnitude",
        *dict.fromkeys(r["suite"] for r in results if r["op"] == "network"),
    ]
    for isa in dict.fromkeys(r["isa"] for r in results):
        of_isa = [r for r in results if r["isa"] == isa]
        int8 = "over_int8_amx" if amx and isa == "default" else "over_int8"
        for suite in suites:
            rows = [r for r in of_isa if r["suite"] == suite]
            pairs = ((int8, ("int8",), OURS_INT8), ("over_float32", FLOAT32, OURS))
            for key, theirs, ours in pairs:
                ratio = over(rows, theirs, ours)
                if ratio is not None and key not in by_suite[suite]:
                    by_suite[suite][key], by_suite[suite][f"{key}_least"] = ratio
        steps = [r for r in of_isa if r["op"] == "train_step"]
        for rows in _by_shape(steps).values():
            ratio = over(rows, EXACT, OURS)
            if ratio is not None:
                key = f"{rows[0]['shape']['C_in']}x{rows[0]['shape']['M']}"
                by_suite["train_step"].setdefault("over_exact", {}).setdefault(key, 1 / ratio[0])
    port = of_port_limit(results, level)
    if port is not None:
        by_suite["accumulate"]["of_port_limit"], by_suite["accumulate"]["of_port_limit_least"] = (
            port
        )
    return {suite: ratios for suite, ratios in by_suite.items() if ratios}


def over(
    rows: Iterable[Result], theirs: Sequence[str], ours: Sequence[Sequence[str]]
) -> tuple[float, float] | None:
    """(ratio of the sums, least ratio of a shape) of their times over ours; None without both.

    Of `theirs` the fastest at each shape. `ours`: groups of names; the first group with a name that
    is there at every shape counts, and of its names the one that is fastest over all shapes.
    """
    shapes = [{r["method"]: r for r in shape} for shape in _by_shape(rows).values()]
    other = [_fastest(shape, theirs) for shape in shapes]
    if not shapes or None in other:
        return None
    times = [time for time in other if time is not None]
    counts = [next(iter(shape.values())).get("count", 1) for shape in shapes]
    for group in ours:
        own = [
            [shape[name]["median_us"] for shape in shapes]
            for name in group
            if all(name in shape for shape in shapes)
        ]
        if own:
            best = min(own, key=lambda o: sum(n * t for n, t in zip(counts, o, strict=True)))
            total = sum(n * t for n, t in zip(counts, best, strict=True))
            ratio = sum(n * t for n, t in zip(counts, times, strict=True)) / total
            return ratio, min(t / o for t, o in zip(times, best, strict=True))
    return None


def _fastest(shape: dict[str, Result], names: Sequence[str]) -> float | None:
    return min((shape[name]["median_us"] for name in names if name in shape), default=None)


def lookups_per_cycle_limit(level: str | None) -> int | None:
    """Look-ups per cycle that shuffle ports allow the accumulate kernel of a level; None unknown.

    avx512vbmi: one 64-byte permute per cycle, on port 5. avx512: sums of 16 bits cost four
    operations per 64 look-ups, two of which issue per cycle. avx2: 32-byte shuffles, two per cycle
    since Ice Lake and Zen (which have GFNI or are AMD's), before that one.
    """
    if level == "avx2":
        return 32 if {"gfni", "sse4a"} & cpu_flags() else 16
    return {"avx512vbmi": 64, "avx512": 32}.get(level or "")


def of_port_limit(results: Iterable[Result], level: str | None) -> tuple[float, float] | None:
    """(over all, least) share of the limit that a layer's look-ups reach from 64 codebooks on.

    The kernel alone, on one thread, in its quickest round and by the clock of its quickest round:
    a neighbor on the machine lengthens both, not alike. Products of less than 64 rows are left
    out: layers of so few rows add whole table rows, without shuffles.
    """
    limit = lookups_per_cycle_limit(level)
    rows = [
        r
        for r in results
        if r["op"] == "accumulate"
        and r["method"] == "ours_kernel"
        and r.get("clock_ghz")
        and r["shape"]["C"] >= PORT_CODEBOOKS
        and r["shape"]["N"] >= 64
    ]
    if limit is None or not rows:
        return None
    lookups = [r["shape"]["N"] * r["shape"]["C"] * r["shape"]["M"] for r in rows]
    cycles = [r["best_us"] * 1e3 * r["clock_ghz"] for r in rows]
    shares = [a / b / limit for a, b in zip(lookups, cycles, strict=True)]
    return sum(lookups) / sum(cycles) / limit, min(shares)


def _by_shape(rows: Iterable[Result]) -> dict[str, list[Result]]:
    by_shape: dict[str, list[Result]] = defaultdict(list)
    for row in rows:
        by_shape[f"{row['suite']} {sorted(row['shape'].items())}"].append(row)
    return by_shape
