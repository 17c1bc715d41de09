"""Compiles kernels of kernels/cuda for a GPU that need not be there, and reads what ptxas says.

python tests/cuda/compiled.py writes benchmarks/cuda_resources.json.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from halut.ops.cuda import launch

ARCHITECTURES = ("sm_80", "sm_90")
SOURCES = sorted(path.stem for path in launch.folder().glob("*.cu"))
RESOURCES = Path(__file__).parents[2] / "benchmarks" / "cuda_resources.json"
Figures = dict[str, int]


def compiler() -> str | None:
    """What compiles: nvcc, NVRTC through cuda-core, or nothing."""
    if shutil.which("nvcc"):
        return "nvcc"
    try:
        importlib.import_module("cuda.core")
        importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except (ImportError, RuntimeError):
        return None
    return "NVRTC"


def version() -> str:
    """The compiler's version, as it tells it."""
    if compiler() == "nvcc":
        told = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
        return "nvcc " + re.findall(r"release [\d.]+, (V[\d.]+)", told)[0]
    _, major, minor = importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    return f"NVRTC {major}.{minor}"


def compiled(source: str, architecture: str) -> dict[str, Figures]:
    """registers, shared, stack, spills in bytes, by kernel. Raises if it does not compile."""
    text = launch.source(source)
    if compiler() == "nvcc":
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{source}.cu"
            file.write_text(text)
            command = ["nvcc", "-std=c++17", f"-arch={architecture}", "-Xptxas", "-v", "-cubin"]
            done = subprocess.run(
                [*command, "-o", f"{folder}/out", str(file)], capture_output=True, text=True
            )
        assert done.returncode == 0, done.stderr
        return figures(done.stderr)
    core = importlib.import_module("cuda.core")
    options = core.ProgramOptions(std="c++17", arch=architecture, ptxas_options="-v")
    log = io.StringIO()
    core.Program(text, "c++", options).compile("cubin", logs=log)
    return figures(log.getvalue())


def figures(log: str) -> dict[str, Figures]:
    """What `ptxas -v` says of every kernel."""
    kernels: dict[str, Figures] = {}
    name = ""
    for line in log.replace("\0", "").splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name = found[1]
            kernels[name] = {"registers": 0, "shared": 0, "stack": 0, "spills": 0}
        elif found := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            kernels[name]["stack"] = int(found[1])
            kernels[name]["spills"] = int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            kernels[name]["registers"] = int(found[1])
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[name]["shared"] = int(shared[1]) if shared else 0
    return kernels


def resources() -> dict[str, dict[str, Figures]]:
    """Figures of every kernel by architecture."""
    pairs = [(source, each) for each in ARCHITECTURES for source in SOURCES]
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda pair: compiled(*pair), pairs))
    found: dict[str, dict[str, Figures]] = {each: {} for each in ARCHITECTURES}
    for (_, architecture), part in zip(pairs, parts, strict=True):
        found[architecture].update(part)
    return found


def lines(found: dict[str, dict[str, Figures]]) -> list[str]:
    """The figures as a table."""
    rows = ["kernel                          arch   registers  shared bytes  spilled bytes"]
    for architecture, kernels in found.items():
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
        "compiler": version(),
        "units": "registers per thread; bytes of shared memory per block; bytes spilled",
        "kernels": resources(),
    }
    RESOURCES.write_text(json.dumps(report, indent=1) + "\n")
