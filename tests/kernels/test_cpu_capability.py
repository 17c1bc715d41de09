"""CPU capability of the compiled kernels: the best, HALUT_CPU_CAPABILITY's, or a context's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from halut.errors import HalutError
from halut.ops import accumulate, cpu

pytestmark = pytest.mark.skipif(not cpu.cpu_capabilities(), reason="no compiled kernels")


def python(code: str, level: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter under HALUT_CPU_CAPABILITY=level."""
    environment = {**os.environ, "HALUT_CPU_CAPABILITY": level}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_best_cpu_capability_is_in_use_and_a_context_changes_it():
    assert cpu.cpu_capabilities()[0] == "portable"
    for level in cpu.cpu_capabilities():
        with cpu.use_cpu_capability(level):
            assert cpu.cpu_capability() == level
            codes, table = torch.zeros(1, 2, dtype=torch.uint8), torch.ones(1, 2, 4, 3)
            assert accumulate(codes, table).tolist() == [[2.0, 2.0, 2.0]]
    assert cpu.cpu_capability() == (os.environ.get(cpu.VARIABLE) or cpu.cpu_capabilities()[-1])


def test_the_cpu_capability_is_restored_after_an_error():
    before = cpu.cpu_capability()
    with pytest.raises(ZeroDivisionError), cpu.use_cpu_capability("portable"):
        _ = 1 / 0
    assert cpu.cpu_capability() == before


def test_an_unknown_cpu_capability_names_the_choices():
    with pytest.raises(HalutError, match=r"unknown CPU capability 'sse9'; choose one of: portable"):
        cpu.use_cpu_capability("sse9").__enter__()


def test_the_variable_chooses():
    code = "from halut.ops import status; print(status.kernels()['accumulate'])"
    assert python(code, "portable").stdout == "cpu (portable)\n"
    code = "from halut.ops import status; print(set(status.kernels().values()))"
    assert python(code + "; print(status.cpu_kernels())", "torch").stdout == (
        "{'torch'}\nnone, torch runs instead: HALUT_CPU_CAPABILITY=torch\n"
    )


def test_the_variable_names_the_choices():
    done = python("import sys; from halut.cli import main; sys.exit(main(['env']))", "sse9")
    assert done.returncode == 1
    choices = ", ".join((*cpu.cpu_capabilities(), "torch"))
    message = f"error: HALUT_CPU_CAPABILITY=sse9 is not available here; choose one of: {choices}\n"
    assert done.stderr == message


def test_the_old_variable_is_read_with_a_warning():
    code = "from halut.ops import cpu; print(cpu.cpu_capability())"
    environment = {**os.environ, "HALUT_LEVEL": "portable"}
    environment.pop("HALUT_CPU_CAPABILITY", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "portable\n"
    assert "HALUT_LEVEL is now called HALUT_CPU_CAPABILITY: rename it" in done.stderr
