"""The folder of a search, which holds one of one kind."""

from __future__ import annotations

from pathlib import Path

from halut.errors import HalutError
from halut.io import read_json
from halut.studies.measuring import check_place

OUTCOME = "search.json"
BUDGETS, TRIALS = "budget", "trials"


def check_out(folder: Path, kind: str) -> None:
    """Raise HalutError where no search of this kind can be kept, so that nothing is overwritten."""
    check_place(folder, f"--out {folder}")
    path = folder / OUTCOME
    if not path.exists():
        return
    other = read_json(path, {}).get("kind", BUDGETS)
    if other != kind:
        words = other.removesuffix("s") + "s"
        raise HalutError(f"--out {folder} has a search by {words}: give another folder")
