"""The rooms of halut/ import one way, as pyproject.toml says and import-linter checks."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORTS = (ast.Import, ast.ImportFrom)

needs_linter = pytest.mark.skipif(find_spec("importlinter") is None, reason="no import-linter")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the halut/ and the contracts of `folder`."""
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )


def empty_copy(folder: Path) -> None:
    """The rooms and files of halut/ without a line in them, and the contracts."""
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for path in [*(ROOT / "halut").rglob("*.py"), *(ROOT / "halut/data").glob("*.py")]:
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    (folder / "halut/bench/__main__.py").write_text("import halut.cli\n")  # an ignored import


@needs_linter
def test_imports_keep_the_contracts():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_linter
@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("ops", "import halut.layers"),
        ("encoders", "from halut import codecs"),
        ("data", "from halut.models import build"),
        ("sites", "def lazily():\n    import halut.replace"),
        ("inference", "import omegaconf"),
        ("training/config", "import halut.training.cluster"),
        ("training/logging", "import halut.training.run"),
        ("ops/core", "import halut.ops.lookup"),
        ("ops/nearest", "import halut.ops.cpu"),
    ],
)
def test_an_import_the_wrong_way_breaks_them(tmp_path, room, line):
    """A package of the same rooms, empty but for one import."""
    empty_copy(tmp_path)
    clean = lint(tmp_path)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    (tmp_path / "halut" / room / "wrong.py").write_text(line + "\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert f"halut.{room.replace('/', '.')}.wrong" in done.stdout


@needs_linter
@pytest.mark.parametrize("room", ["inference", "sites", "training/lightning", "ops/cuda"])
def test_two_files_of_a_room_that_import_each_other_break_them(tmp_path, room):
    empty_copy(tmp_path)
    folder, name = tmp_path / "halut" / room, f"halut.{room.replace('/', '.')}"
    (folder / "one.py").write_text(f"import {name}.two\n")
    (folder / "two.py").write_text(f"import {name}.one\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert f"allowed in {name}." in " ".join(done.stdout.split())


def test_no_import_is_for_typing_alone():
    """A TYPE_CHECKING block would hide a circle, which a Protocol or another room resolves.

    But for the public names, which are imported when they are first used.
    """
    modules = [*(ROOT / "halut").rglob("*.py"), *(ROOT / "data").rglob("*.py")]
    assert len(modules) > 200
    hiding = [path.relative_to(ROOT) for path in modules if "TYPE_CHECKING" in path.read_text()]
    assert hiding == [Path("halut/__init__.py")]


LAZY = {
    "halut/__init__.py": "importing halut imports no torch",
    "halut/cli.py": "a verb imports what it needs, and --help nothing",
    "halut/training/cluster/launcher.py": "needs the extra slurm",
    "halut/training/logging/loggers.py": "needs the extra wandb",
}
"""Files whose functions import modules of this project, and why."""


def test_no_function_hides_an_import():
    """Of this project's own modules, that is: it would hide a circle. The compiled extension may be
    missing, and is no module of it."""
    hiding = set()
    for path in [*(ROOT / "halut").rglob("*.py"), *(ROOT / "data").rglob("*.py")]:
        functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, FUNCTIONS)]
        for node in (node for function in functions for node in ast.walk(function)):
            names = [alias.name for alias in node.names] if isinstance(node, IMPORTS) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            if any(n.split(".")[0] == "halut" and n != "halut._kernels" for n in names):
                hiding.add(str(path.relative_to(ROOT)))
    assert hiding == set(LAZY)
