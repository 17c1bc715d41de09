"""Compiles kernels of kernels/cuda as on a GPU, which need not be there, and reads ptxas' figures.

python tests/cuda/compiled.py writes benchmarks/cuda_resources.json.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from halut.ops.cuda import cubin

ARCHITECTURES = ("sm_80", "sm_90")
SOURCES = sorted(path.stem for path in cubin.folder().glob("*.cu"))
RESOURCES = Path(__file__).parents[2] / "benchmarks" / "cuda_resources.json"
Figures = dict[str, int]


def compiled(source: str, architecture: str) -> dict[str, Figures]:
    """registers, shared, stack, spills in bytes, by kernel. Raises if it does not compile."""
    return figures(cubin.compile_source(source, architecture, ("--ptxas-options=-v",))[1])


def figures(log: str) -> dict[str, Figures]:
    """What `ptxas -v` says of every kernel."""
    kernels: dict[str, Figures] = {}
    name = ""
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
            kernels[name] = {"registers": 0, "shared": 0, "stack": 0, "spills": 0}
        elif match := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            kernels[name]["stack"] = int(match[1])
            kernels[name]["spills"] = int(match[2]) + int(match[3])
        elif match := re.search(r"Used (\d+) registers", line):
            kernels[name]["registers"] = int(match[1])
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[name]["shared"] = int(shared[1]) if shared else 0
    return kernels


def resources() -> dict[str, dict[str, Figures]]:
    """Figures of every kernel by architecture."""
    pairs = [(source, each) for each in ARCHITECTURES for source in SOURCES]
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda pair: compiled(*pair), pairs))
    results: dict[str, dict[str, Figures]] = {each: {} for each in ARCHITECTURES}
    for (_, architecture), part in zip(pairs, parts, strict=True):
        results[architecture].update(part)
    return results


def lines(results: dict[str, dict[str, Figures]]) -> list[str]:
    """The figures as a table."""
    rows = ["kernel                          arch   registers  shared bytes  spilled bytes"]
    for architecture, kernels in results.items():
        for name, each in sorted(kernels.items()):
            rows.append(
                f"{name:31} {architecture:6} {each['registers']:9} {each['shared']:13} "
                f"{each['spills']:14}"
            )
    return rows


if __name__ == "__main__":
    RESOURCES.parent.mkdir(exist_ok=True)
    report = {
        "command": "python tests/cuda/compiled.py",
        "compiler": f"NVRTC {cubin.version()}",
        "options": list(cubin.OPTIONS),
        "units": "registers per thread; bytes of shared memory per block; bytes spilled",
        "kernels": resources(),
    }
    RESOURCES.write_text(json.dumps(report, indent=1) + "\n")
