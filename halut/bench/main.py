"""Command line of the benchmark: arguments, measuring processes, output."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from halut.bench import inputs, machine, result_tables
from halut.bench.cuda import command as cuda
from halut.bench.cuda import methods as cuda_methods
from halut.bench.measure import Settings, selected
from halut.bench.suites import Case, suites
from halut.bench.summary import summarize
from halut.errors import HalutError
from halut.io import write_json
from halut.plugins import loading
from halut.training.logging.git import git_revision

SCHEMA = 1
ISAS = ("vnni", "default")


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, 1 if a method answers wrongly, 2 on arguments that cannot be."""
    options = parser().parse_args(arguments)
    try:
        settings, isas = settings_of(options)
        cases = (cuda.selected if options.device == "cuda" else selected)(settings)
        check_effect(options, cases)
    except HalutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.list:
        for case in cases:
            print(f"{case.op:11s} {case.name}" + (f"  x{case.count}" if case.count > 1 else ""))
        return 0
    if options.device == "cuda":
        return cuda.main(settings, arguments, options.json)
    results: list[dict[str, Any]] = []
    for i, isa in enumerate(isas):
        code, rows = run_process(replace(settings, isa=isa, int8_only=i > 0))
        if code:
            return code
        results += rows
    document = describe(settings, arguments, results)
    show(document)
    path = Path(options.json) if options.json else default_path(settings)
    write_json(path, document)
    print(f"saved: {path}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="halut bench",
        description="Time look-up tables against float32 and INT8 products: every answer is "
        "checked first, methods take turns, ratios are those of one run.",
    )
    p.add_argument(
        "--only",
        type=_names,
        default=[],
        metavar="NAMES",
        help=f"{', '.join(suites())}; with --device cuda {', '.join(cuda_methods.suites())}",
    )
    p.add_argument(
        "--model",
        type=_names,
        default=[],
        metavar="NAMES",
        help="local, timm or torchvision networks, in place of resnet18; alone: nothing else",
    )
    p.add_argument("--input", type=_size, metavar="B,C,H,W", help="of the networks (1,3,224,224)")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--threads", type=numbers, metavar="1,2", help="of the CPU (1)")
    p.add_argument("--rounds", type=number, default=None, help="measurements of each (15)")
    p.add_argument("--quick", action="store_true", help="tiny shapes: does everything run?")
    p.add_argument("--batch", type=number, help="of ResNet-9's convolutions (128)")
    p.add_argument(
        "--isa",
        type=_names,
        default=None,
        metavar=",".join(ISAS),
        help="what oneDNN may use: vnni (INT8 without AMX), default (all); both on a CPU with AMX",
    )
    p.add_argument("--json", metavar="FILE", help="where to save (benchmarks/DEVICE-MODEL.json)")
    p.add_argument("--list", action="store_true", help="print the cases, time nothing")
    return p


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> list[int]:
    return [number(part) for part in text.split(",")]


def _size(text: str) -> list[int]:
    size = numbers(text)
    if len(size) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not four numbers B,C,H,W")
    return size


def number(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return value


def settings_of(options: argparse.Namespace) -> tuple[Settings, list[str]]:
    """Settings, and the sets of instructions to measure with, one process each."""
    for isa in options.isa or ():
        if isa not in ISAS:
            raise HalutError(f"--isa: unknown name {isa!r}; choose from: {', '.join(ISAS)}")
    both = "amx_int8" in machine.cpu_flags()
    isas = list(options.isa or (ISAS if both else ISAS[:1]))
    cores = os.cpu_count() or 1
    threads = options.threads or [1]
    if max(threads) > cores:
        raise HalutError(f"--threads: {max(threads)} threads, but the machine has {cores}")
    rounds = options.rounds or (3 if options.quick else 15)
    settings = Settings(
        only=options.only or (["network"] if options.model else []),
        models=options.model,
        size=options.input,
        threads=list(dict.fromkeys(threads)),
        rounds=rounds,
        quick=options.quick,
        resnet9_batch=options.batch or Settings.resnet9_batch,
        plugins=list(loading.described()),
    )
    return settings, isas


def check_effect(options: argparse.Namespace, cases: Sequence[Case]) -> None:
    """Raise HalutError for an argument that changes nothing of what is timed."""
    on_gpu = "a GPU is timed, not the CPU" if options.device == "cuda" else None
    list_reason = "--list times nothing" if options.list else None
    network = None if any(c.op == "network" for c in cases) else "no network is timed"
    layers = None if any(c.suite == "resnet9_3x3" for c in cases) else "resnet9_3x3 is not timed"
    quick = "--quick has tiny shapes of its own" if options.quick else None
    reasons = {
        "model": network,
        "input": network,
        "batch": on_gpu or quick or layers,
        "threads": on_gpu or list_reason,
        "isa": on_gpu or list_reason,
        "rounds": list_reason,
        "json": list_reason,
    }
    for name, reason in reasons.items():
        if reason is not None and getattr(options, name):
            raise HalutError(f"--{name} has no effect: {reason}")


def run_process(settings: Settings) -> tuple[int, list[dict[str, Any]]]:
    """Measure in a process of its own: (exit code, results)."""
    environment = dict(os.environ)
    environment.pop("ONEDNN_MAX_CPU_ISA", None)
    # Without AMX the cap would change nothing, or take AVX-VNNI from a CPU without AVX-512.
    if settings.isa == "vnni" and "amx_int8" in machine.cpu_flags():
        environment["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"
    with tempfile.TemporaryDirectory() as folder:
        settings_path, results_path = Path(folder) / "settings.json", Path(folder) / "results.json"
        write_json(settings_path, asdict(settings))
        command = [
            sys.executable,
            "-m",
            "halut.bench.measure",
            str(settings_path),
            str(results_path),
        ]
        code = subprocess.run(command, env=environment).returncode
        if code or not results_path.exists():
            return code or 1, []
        return 0, json.loads(results_path.read_text())["results"]


def describe(
    settings: Settings, arguments: Sequence[str], results: list[dict[str, Any]]
) -> dict[str, Any]:
    """The document to be saved."""
    about = machine.describe()
    return {
        "schema": SCHEMA,
        "machine": about,
        "commit": git_revision(),
        "command": shlex.join(["python", "-m", "halut.bench", *arguments]),
        "threads": settings.threads,
        "rounds": settings.rounds,
        "inputs": inputs.DESCRIPTION,
        "summary": summarize(results, about["level"], about["amx"]),
        "results": results,
    }


def show(document: dict[str, Any]) -> None:
    """Print the tables, and where tables lose."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(result_tables.results_table(document["results"]))
    console.print(result_tables.summary_table(document["summary"]))
    for line in result_tables.losses(document["summary"]):
        console.print(line)


def default_path(settings: Settings) -> Path:
    """benchmarks/cpu-MODEL.json; runs of a part say so in their name, beside the whole one's."""
    part = "-quick" if settings.quick else "-part" if settings.only else ""
    return Path("benchmarks") / f"cpu-{machine.slug(machine.cpu_model())}{part}.json"
