"""The folder of a search, and its search.json, which is of one kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halut.errors import HalutError
from halut.io import read_json, write_json
from halut.page.searches import FILE, SCHEMA
from halut.studies.measuring import check_place

BUDGETS, TRIALS = "budget", "trials"


def check_out(folder: Path, kind: str) -> None:
    """Raise HalutError where no search of this kind can be kept, so that nothing is overwritten."""
    check_place(folder, f"--out {folder}")
    path = folder / FILE
    if not path.exists():
        return
    other = read_json(path, {}).get("kind", BUDGETS)
    if other != kind:
        words = other.removesuffix("s") + "s"
        raise HalutError(f"--out {folder} has a search by {words}: give another folder")


def write_search(folder: Path, kind: str, command: str, content: Mapping[str, Any]) -> None:
    """Write search.json: `content` with what says what it is."""
    head = {"schema": SCHEMA, "kind": kind, "command": command}
    write_json(folder / FILE, {**head, **content})
