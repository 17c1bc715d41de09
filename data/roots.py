"""Data set roots on disk, and the error for missing ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from halut.data.files import printable
from halut.errors import HalutError

ROOT_HINT = "give data.root=PATH or set HALUT_DATA"


def candidates(root: str | None, folders: Sequence[str], fixed: Iterable[str] = ()) -> list[Path]:
    """Folders to look in, in order: root, HALUT_DATA, each with every one of `folders`; `fixed`."""
    bases = [base for base in (root, os.environ.get("HALUT_DATA")) if base]
    places = [Path(base).expanduser() / folder for base in bases for folder in ("", *folders)]
    return [*places, *map(Path, fixed)]


def download_root(group: str, root: str | None) -> Path:
    """The folder that downloads go to. HalutError if none was given."""
    base = root or os.environ.get("HALUT_DATA")
    if not base:
        raise HalutError(f"{group}: data.download=true needs a folder: {ROOT_HINT}")
    return Path(base).expanduser()


def list_paths(places: Sequence[Path]) -> str:
    """The places looked in, for a message."""
    return (
        ", ".join(map(printable, places)) or "no folder (neither data.root nor HALUT_DATA is set)"
    )


def check_readable(group: str, path: Path) -> None:
    """HalutError naming `path` if it exists and this process may not read it."""
    need = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
    if path.exists() and not os.access(path, need):
        raise HalutError(f"{group}: no permission to read {printable(path)}")
