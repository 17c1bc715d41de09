"""The contract and fuzz suites under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.install.environments import checkout, missing_tools, run

SUITE = ("test_kernel_contract.py", "test_fuzz_lookup.py", "test_fuzz_tree.py")
SUITE += ("test_fuzz_nearest.py", "test_fuzz_taps.py", "test_fuzz_layer.py")
SUITE += ("test_fuzz_refusals.py",)

OVERRUN = """
import torch
from halut import _kernels
codes, table = torch.zeros(4, 3, dtype=torch.uint8), torch.zeros(1, 3, 4, 8)
out = torch.zeros(4, 8)
_kernels.accumulate_float(codes.data_ptr(), table.data_ptr(), out.data_ptr(), 9, 1, 3, 4, 8, 1)
"""


def library(name: str) -> str:
    """The compiler's own libNAME.so, or "" where it has none."""
    command = ["c++", f"-print-file-name=lib{name}.so"]
    if shutil.which("c++") is None:
        return ""
    completed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return completed if Path(completed).is_absolute() else ""


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_tools), reason=f"not installed: {missing_tools}"),
    pytest.mark.skipif(not library("asan"), reason="the compiler has no AddressSanitizer"),
]


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory) -> Path:
    """A checkout whose kernels are instrumented."""
    folder = tmp_path_factory.mktemp("sanitized")
    source = checkout(folder / "checkout")
    options = ("-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}", "-DHALUT_SANITIZE=ON")
    run("cmake", "-S", source, "-B", folder / "build", *options, cwd=folder)
    run("cmake", "--build", folder / "build", cwd=folder)
    (extension,) = (folder / "build").glob("_kernels*.so")
    shutil.copy(extension, source / "halut")
    return source


def under(source: Path, *command: str, code: int = 0) -> str:
    """What python says with the sanitizers' runtime loaded before everything else."""
    variables = {
        "PYTHONPATH": str(source),
        # Loaded first, libstdc++ lets the runtime find what it intercepts of it.
        "LD_PRELOAD": f"{library('asan')} {library('stdc++')}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_NUM_THREADS": "2",
    }
    done = run(sys.executable, *command, cwd=source, code=code, **variables)
    return done.stdout + done.stderr


def test_an_overrun_would_be_found(sanitized):
    assert "AddressSanitizer: heap-buffer-overflow" in under(sanitized, "-c", OVERRUN, code=1)


def test_the_suites_are_clean(sanitized):
    files = [f"tests/kernels/{name}" for name in SUITE]
    message = under(sanitized, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files)
    assert " passed" in message
    assert "runtime error" not in message
