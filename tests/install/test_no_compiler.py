"""Without a working compiler the install succeeds, torch runs, and both are said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import halut
from tests.install.environments import Environment, checkout, missing_tools, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_tools), reason=f"not installed: {missing_tools}"),
]

USE = """
import torch, halut.ops as ops
codes, table = torch.zeros(3, 2, dtype=torch.uint8), torch.ones(1, 2, 4, 5)
print(ops.accumulate(codes, table).sum().item(), ops.accumulate(codes, table).shape)
"""


def broken_compiler(folder: Path) -> Path:
    """A compiler that passes CMake's checks, and fails at the kernels themselves."""
    path = folder / "c++"
    path.write_text('#!/bin/sh\ncase "$*" in *kernels/cpu/ops*) exit 1;; esac\nexec c++ "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("kind", ["none", "fails at the kernels"])
def test_torch_takes_over(kind, tmp_path):
    compiler = "/bin/false" if kind == "none" else str(broken_compiler(tmp_path))
    source = checkout(tmp_path / "checkout")
    environment = Environment.create(tmp_path / "venv")
    message = environment.install(source, CC="/bin/false" if kind == "none" else "cc", CXX=compiler)
    assert f"halut-{halut.__version__}-py3-none-any.whl" in message
    report = json.loads(environment.halut("env", "--json", cwd=tmp_path).stdout)
    assert set(report["kernels"].values()) == {"torch"}
    assert report["cpu_kernels"].startswith("none, torch runs instead: No module named")
    done = run(environment.python, "-c", USE, cwd=tmp_path)
    assert done.stdout == "30.0 torch.Size([3, 5])\n"
    assert done.stderr.count("compiled CPU kernels are not available") == 1
    refused = environment.halut("env", cwd=tmp_path, code=1, HALUT_CPU_CAPABILITY="avx2").stderr
    assert "HALUT_CPU_CAPABILITY=avx2 is not available here; choose one of: torch" in refused
