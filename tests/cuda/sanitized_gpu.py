"""compute-sanitizer over the kernels on a GPU: every one, by few cases that reach all.

python -m tests.cuda.sanitized_gpu runs those cases and prints the kernels that ran. initcheck is
not asked: it does not see what torch's allocator hands out, and accuses libraries.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from halut.ops.cuda import launch
from tests.cuda.cuda_cases import CASES, on_gpu, run
from tests.cuda.cuda_launches import covering

HERE = Path(__file__).parent
SECONDS = 90
TOOLS = {"memcheck": ("--padding", "64"), "racecheck": (), "synccheck": ()}
"""Options of each tool. Padding: a step beyond an allocation does not end in the next one."""
CLEAN = 'import torch; print(torch.zeros(9, device="cuda").add_(1).sum().item())'


def watched(tool: str, *command: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """Python's `command` under a tool; all its processes end after `seconds`.

    Raises subprocess.TimeoutExpired. The caching allocator is off, or steps beyond a tensor stay
    within the 2 MiB that it shares with others.
    """
    options = ["--tool", tool, *TOOLS[tool], "--error-exitcode", "9"]
    more = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(HERE.parents[1])}
    arguments = ["compute-sanitizer", *options, sys.executable, *command]
    with subprocess.Popen(
        arguments,
        env={**os.environ, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, out)


def refusal() -> str | None:
    """Why the tools cannot watch this machine's GPU, as they put it; None where they can."""
    done = watched("memcheck", "-c", CLEAN)
    if done.returncode == 0 and "ERROR SUMMARY: 0 errors" in done.stdout:
        return None
    message = [line.lstrip("= ") for line in done.stdout.splitlines() if line.startswith("=====")]
    return next((line for line in message if "rror" in line or "not" in line), done.stdout[-200:])


def main() -> None:
    ran: set[str] = set()
    made = launch.Launch

    def recorded(name: str, kernel: str, *rest: Any) -> launch.Launch:
        ran.add(kernel)
        return made(name, kernel, *rest)

    launch.Launch = recorded  # type: ignore[assignment, misc]
    launch.processors = lambda device: 4  # as `launches` counts: small grids fill the GPU
    for each in covering(CASES):
        run(each, "cuda", tuple(on_gpu(value) for value in each.make()))
    torch.cuda.synchronize()
    print("ran:", *sorted(ran))


if __name__ == "__main__":
    main()
