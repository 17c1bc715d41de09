"""Plugin files as modules: the module's name tells the file's path.

`/home/me/mine.py` is `halut.plugins.file_modules.mine_2f686f...`, the path in hexadecimal:
files of one name in two folders are two modules, and another process, a worker of a data loader or
a SLURM job, that is sent an object of such a module finds the file by the name alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from halut.registry import FILES, attributed

__path__: list[str] = []
"""Makes this module a package; what is in it is found by `_Finder`."""


def module_name(path: Path) -> str:
    """The name of the module of an absolute path."""
    stem = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
    return f"{FILES}.{stem}_{str(path).encode().hex()}"


def path_of(name: str) -> Path | None:
    """The inverse of `module_name`; None for a module that is no plugin file."""
    package, _, last = name.rpartition(".")
    try:
        path = bytes.fromhex(last.rpartition("_")[2]).decode() if package == FILES else ""
    except ValueError:
        path = ""
    return Path(path) if path.startswith("/") else None


class _Loader(SourceFileLoader):
    """Executes a plugin file; what it registers is the file's."""

    def exec_module(self, module: ModuleType) -> None:
        folder = str(Path(self.path).parent)
        if folder not in sys.path:
            sys.path.append(folder)  # what lies beside the file can be imported, too
        with attributed(self.path):
            super().exec_module(module)


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = path_of(name)
        if file is None or not file.is_file():
            return None
        return spec_from_file_location(name, file, loader=_Loader(name, str(file)))


if not any(isinstance(each, _Finder) for each in sys.meta_path):
    sys.meta_path.append(_Finder())
