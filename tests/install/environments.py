"""Virtual environments that borrow this one's packages, all but halut, and what runs in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (".git", "build", "dist", "*.so", "__pycache__", ".*_cache", "runs", ".hypothesis")
TOOLS = ("build", "nanobind", "scikit_build_core")
missing_tools = [name for name in TOOLS if find_spec(name) is None]
"""Build tools that this environment lacks; those of the extra `test` are here."""


def run(
    *command: str | Path, cwd: Path, code: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command that is not told of the checkout the tests run in, and check its exit code."""
    hidden = {
        "PYTHONPATH",
        "HALUT_CPU_CAPABILITY",
        "HALUT_LEVEL",
        *(name for name in os.environ if "PYTEST" in name),
    }
    remaining = {name: value for name, value in os.environ.items() if name not in hidden}
    words = [str(word) for word in command]
    environment: Mapping[str, str] = {**remaining, **variables}
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == code, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done


def checkout(folder: Path) -> Path:
    """A fresh copy of the sources, with nothing built in it."""
    return Path(shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT)))


@dataclass
class Environment:
    """A virtual environment in `folder`."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Environment:
        """One that finds the packages of the running environment by a .pth file.

        Lines of that environment's own .pth files, such as an editable halut's, do not count.
        """
        venv.create(folder, with_pip=False)
        environment = cls(folder)
        packages = Path(numpy.__file__).parents[1]
        (environment.packages / "borrowed.pth").write_text(f"{packages}\n")
        return environment

    @property
    def packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def install(self, what: str | Path, *options: str, **variables: str) -> str:
        """pip install, its build tools those at hand; returns what it said."""
        command = ("-m", "pip", "install", "--no-deps", "--no-build-isolation", "-v", *options)
        done = run(self.python, *command, what, cwd=self.folder, **variables)
        return done.stdout + done.stderr

    def halut(
        self, *arguments: str, cwd: Path, code: int = 0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """The console command."""
        return run(self.folder / "bin" / "halut", *arguments, cwd=cwd, code=code, **variables)
