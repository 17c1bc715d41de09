"""Cases reach every kernel; how compute-sanitizer is called, by a stand-in for it."""

import json
import subprocess
import time

import pytest

from tests.cuda import compiled, sanitized_gpu
from tests.cuda.cuda_cases import CASES
from tests.cuda.cuda_launches import covering, launches


def kernels(cases):
    return {kernel for each in cases for _, kernel in launches(each)}


def test_few_cases_launch_every_kernel():
    recorded = json.loads(compiled.RESOURCES.read_text())["kernels"]
    cases = covering(CASES)
    assert kernels(cases) == set(recorded["sm_90"])
    assert len(cases) <= len(kernels(cases)) < len(CASES) / 4


@pytest.mark.parametrize("each", CASES[::9], ids=str)
def test_what_is_recorded_is_what_runs(shim, each):
    runner = shim()
    sanitized_gpu.run(each, "cuda", each.make())
    assert set(runner.launched) == kernels([each])


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """tool(text): `compute-sanitizer` is a shell script of that text."""

    def write(text):
        file = tmp_path / "compute-sanitizer"
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return write


def test_allocations_are_torchs_own_and_padded(tool):
    tool('echo "$PYTORCH_NO_CUDA_MEMORY_CACHING $*"')
    message = sanitized_gpu.watched("memcheck", "program.py").stdout
    assert message.startswith("1 --tool memcheck --padding 64 --error-exitcode 9 ")
    assert message.endswith(" program.py\n")
    assert "padding" not in sanitized_gpu.watched("racecheck", "program.py").stdout


def test_a_tool_that_hangs_is_ended_with_its_children(tool, tmp_path):
    tool("sleep 60 & wait")
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        sanitized_gpu.watched("synccheck", "program.py", seconds=0.2)
    assert time.monotonic() - start < 30  # the child held the pipe open


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('echo "========= Error: Device not supported"; exit 1', "Error: Device not supported"),
        ('echo "========= Target application terminated, not seen"', "Target application termin"),
        ("echo no; exit 3", "no"),
    ],
)
def test_a_machine_that_refuses_reports_the_reason(tool, text, reason):
    tool(text)
    assert reason in sanitized_gpu.refusal()


def test_a_machine_that_does_not_refuse(tool):
    tool('echo "========= ERROR SUMMARY: 0 errors"')
    assert sanitized_gpu.refusal() is None
