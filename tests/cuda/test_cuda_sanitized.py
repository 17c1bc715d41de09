"""The kernels under AddressSanitizer, on the CPU through the launch shim."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from halut.ops.cuda import cubin
from tests.cuda.shim.runner import Shim, compiler

HERE = Path(__file__).parent


def runtime() -> str:
    """The path of AddressSanitizer's library."""
    completed = subprocess.run(
        [str(compiler()), "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    if not Path(completed).is_absolute():
        pytest.skip("the compiler has no AddressSanitizer library")
    return completed


def sanitized(folder: Path, *operations: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime(),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONPATH": str(HERE.parents[1]),
    }
    return subprocess.run(
        [sys.executable, str(HERE / "sanitized.py"), str(folder), *operations],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="the launch shim needs g++ or clang++")
def test_no_kernel_reads_or_writes_beyond_its_memory(tmp_path):
    runtime()
    sources = sorted(path.stem for path in cubin.folder().glob("*.cu"))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Shim(tmp_path, sanitize=True).build, sources))
    done = sanitized(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "kernels" in done.stdout


@pytest.mark.skipif(compiler() is None, reason="the launch shim needs g++ or clang++")
def test_a_step_beyond_is_found(tmp_path):
    runtime()
    right = "if (output >= part.count) return;"

    def changed(text: str) -> str:
        assert right in text
        return text.replace(right, "")

    Shim(tmp_path, text=changed, sanitize=True).build("accumulate")
    done = sanitized(tmp_path, "accumulate")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
