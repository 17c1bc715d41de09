"""Machine instructions (SASS) of every CUDA kernel, counted without a GPU.

python benchmarks/cuda_sass.py [SOURCE ...] writes benchmarks/cuda_sass.json: registers, shared and
spilled bytes as ptxas tells them, instructions in all, and the instructions of every innermost loop
with its loads, stores and special-function operations. nvdisasm of a CUDA toolkit (or of Triton)
is needed beside nvcc.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "cuda")]

import compiled  # noqa: E402

from halut.ops.cuda import cubin  # noqa: E402

ARCHITECTURE = "sm_90"
OUT = ROOT / "benchmarks" / "cuda_sass.json"
MIX = ("LDG", "LDS", "STG", "STS", "LDGSTS", "MUFU", "BRX", "BAR")
LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
LABEL = re.compile(r"^(\.L_x_\d+):")


def nvdisasm() -> str:
    """The disassembler's path. Raises FileNotFoundError if there is none."""
    path = shutil.which("nvdisasm")
    triton = find_spec("triton")
    if path is None and triton is not None and triton.origin is not None:
        path = shutil.which(
            "nvdisasm", path=str(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
        )
    if path is None:
        raise FileNotFoundError("nvdisasm is neither on PATH nor in Triton")
    return path


def counted(listing: str) -> dict[str, dict]:
    """By kernel: instructions in all, and of every loop that holds no other, in their order."""
    kernels: dict[str, dict] = {}
    for section in listing.split("//--------------------- .text.")[1:]:
        name = section.split(maxsplit=1)[0]
        code: list[tuple[int, str, str]] = []
        labels: dict[str, int] = {}
        waiting: list[str] = []
        for line in section.splitlines():
            if label := LABEL.match(line.strip()):
                waiting.append(label[1])
            elif match := LINE.search(line):
                address = int(match[1], 16)
                labels.update(dict.fromkeys(waiting, address))
                waiting = []
                code.append((address, match[2], match[3]))
        while code and code[-1][1] in ("NOP", "BRA"):  # the padding behind the last exit
            code.pop()
        loops = []
        for address, operation, operands in code:
            target = re.search(r"\((\.L_x_\d+)\)", operands)
            if operation.startswith("BRA") and target and labels.get(target[1], 1 << 62) <= address:
                loops.append((labels[target[1]], address))
        inner = [
            a for a in loops if not any(a != b and a[0] <= b[0] <= b[1] <= a[1] for b in loops)
        ]
        kernels[name] = {
            "instructions": len(code),
            "loops": [_mix([each for each in code if a <= each[0] <= b]) for a, b in sorted(inner)],
        }
    return kernels


def _mix(code: list[tuple[int, str, str]]) -> dict[str, int]:
    operations = [each[1].split(".")[0] for each in code]
    counts = {each: operations.count(each) for each in MIX}
    return {"instructions": len(code), **{key: n for key, n in counts.items() if n}}


def kernels_of(source: str) -> dict[str, dict]:
    """Figures of the kernels of kernels/cuda/SOURCE.cu."""
    with tempfile.TemporaryDirectory() as folder:
        file, binary = Path(folder) / f"{source}.cu", Path(folder) / "out.cubin"
        file.write_text(cubin.source(source))
        command = ["nvcc", "-O3", "-std=c++17", f"-arch={ARCHITECTURE}", "-Xptxas", "-v", "-cubin"]
        completed = subprocess.run(
            [*command, "-o", str(binary), str(file)], capture_output=True, text=True, check=True
        )
        listing = subprocess.run(
            [nvdisasm(), "-c", str(binary)], capture_output=True, text=True, check=True
        )
    resources = compiled.figures(completed.stderr)
    return {name: {**resources[name], **each} for name, each in counted(listing.stdout).items()}


def main() -> None:
    sources = sys.argv[1:] or compiled.SOURCES
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(kernels_of, sources))
    kernels = {name: each for part in parts for name, each in sorted(part.items())}
    if sys.argv[1:]:
        print(json.dumps(kernels, indent=1))
        return
    report = {
        "command": "python benchmarks/cuda_sass.py",
        "compiler": f"{compiled.version()} for {ARCHITECTURE}",
        "units": "machine instructions; registers per thread; bytes",
        "kernels": kernels,
    }
    text = json.dumps(report, indent=1)
    text = re.sub(r"\{\s+([^{}\[\]]+?)\s+\}", lambda m: "{" + " ".join(m[1].split()) + "}", text)
    OUT.write_text(text + "\n")


if __name__ == "__main__":
    main()
