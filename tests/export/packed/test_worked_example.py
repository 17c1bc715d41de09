"""docs/hardware.md is true: its commands run, and print what it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "hardware.md").read_text()
SHORT = "base.epochs=2 schedule.epochs=1 baseline=false ptq=none"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.skipif(
    None in map(shutil.which, ("iverilog", "cc", "bash")), reason="needs iverilog, cc and bash"
)
def test_the_commands_from_training_to_the_simulator(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    halut = "from halut.cli import main; import sys; sys.exit(main())"
    for name, command in (("python", '"$@"'), ("halut", f'-c "{halut}" "$@"')):
        (programs / name).write_text(f"#!/bin/sh\nexec {sys.executable} {command}\n")
        (programs / name).chmod(0o755)
    script = "\n".join(blocks("bash")).replace(" train.py ", f" {ROOT}/train.py ")
    script = script.replace("run_dir=", f"{SHORT} run_dir=")
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-e"],
        input=script,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (shown,) = blocks("text")
    assert done.stdout.endswith(shown)
