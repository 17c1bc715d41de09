"""The level the compiled kernels run on: the CPU's best, HALUT_LEVEL's, or a context's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from halut.errors import HalutError
from halut.ops import accumulate, cpu

pytestmark = pytest.mark.skipif(not cpu.levels(), reason="no compiled kernels")


def python(code: str, level: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter under HALUT_LEVEL=level."""
    environment = {**os.environ, "HALUT_LEVEL": level}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_best_level_is_in_use_and_a_context_changes_it():
    assert cpu.levels()[0] == "portable"
    for level in cpu.levels():
        with cpu.use_level(level):
            assert cpu.level() == level
            codes, table = torch.zeros(1, 2, dtype=torch.uint8), torch.ones(1, 2, 4, 3)
            assert accumulate(codes, table).tolist() == [[2.0, 2.0, 2.0]]
    assert cpu.level() == (os.environ.get(cpu.VARIABLE) or cpu.levels()[-1])


def test_the_level_before_returns_after_an_error():
    before = cpu.level()
    with pytest.raises(ZeroDivisionError), cpu.use_level("portable"):
        _ = 1 / 0
    assert cpu.level() == before


def test_an_unknown_level_names_the_choices():
    with pytest.raises(HalutError, match=r"unknown level 'sse9'; choose one of: portable"):
        cpu.use_level("sse9").__enter__()


def test_the_variable_chooses():
    code = "from halut.ops import status; print(status.kernels()['accumulate'])"
    assert python(code, "portable").stdout == "cpu (portable)\n"
    code = "from halut.ops import status; print(set(status.kernels().values()))"
    assert python(code + "; print(status.cpu_kernels())", "torch").stdout == (
        "{'torch'}\nnone, torch runs instead: HALUT_LEVEL=torch\n"
    )


def test_the_variable_names_the_choices():
    done = python("import sys; from halut.cli import main; sys.exit(main(['env']))", "sse9")
    assert done.returncode == 1
    choices = ", ".join((*cpu.levels(), "torch"))
    message = f"error: HALUT_LEVEL=sse9 is not available here; choose one of: {choices}\n"
    assert done.stderr == message
