"""Pages of docs/ that go from a run to other programs are true: their commands run, and print what
the pages show."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHORT = "base.epochs=2 schedule.epochs=1 baseline=false ptq=none"


def steps(page: str) -> str:
    """The page's commands and the programs among them, as one script of the shell."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)
    parts = []
    for language, text in blocks:
        if language == "bash" and "pip install" not in text:
            parts.append(text.replace(" train.py ", f" {ROOT}/train.py "))
        elif language == "python" and "import" in text:
            parts.append(f"python - <<'END'\n{text}END\n")
    return "\n".join(parts).replace("run_dir=", f"{SHORT} run_dir=")


def programs(folder: Path) -> dict[str, str]:
    """An environment in which python and halut are those of this test."""
    folder.mkdir()
    halut = "from halut.cli import main; import sys; sys.exit(main())"
    for name, command in (("python", '"$@"'), ("halut", f'-c "{halut}" "$@"')):
        (folder / name).write_text(f"#!/bin/sh\nexec {sys.executable} {command}\n")
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def check_page(name: str, tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to" / name).read_text()
    done = subprocess.run(
        ["bash", "-e"],
        input=steps(page),
        cwd=tmp_path,
        env=programs(tmp_path / "bin"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert done.stdout.endswith(shown)


@pytest.mark.slow
def test_the_way_from_a_run_to_onnxruntime(tmp_path):
    check_page("export.md", tmp_path)


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.skipif(
    None in map(shutil.which, ("iverilog", "cc", "bash")), reason="needs iverilog, cc and bash"
)
def test_the_way_from_a_run_to_the_simulator(tmp_path):
    check_page("hardware.md", tmp_path)
