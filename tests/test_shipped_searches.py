"""benchmarks/searches.md says what the shipped searches found."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from halut.page.gather import gather

FOLDER = Path(__file__).parents[1] / "benchmarks"
SEARCHES = sorted(path.parent for path in (FOLDER / "searches").glob("*/search.json"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))  # as of a script that is started
    spec = importlib.util.spec_from_file_location("searches", FOLDER / "searches.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_searches(script):
    assert script.text() == (FOLDER / "searches.md").read_text(), "python benchmarks/searches.py"


def test_other_figures_give_another_table(script, monkeypatch):
    read = script.read_json

    def changed(path):
        content = read(path)
        for outcome in content.get("budgets", []):
            outcome["run"]["val_accuracy"] += 1.0
        return content

    monkeypatch.setattr(script, "read_json", changed)
    assert script.text() != (FOLDER / "searches.md").read_text()


@pytest.mark.parametrize("folder", SEARCHES, ids=lambda path: path.name)
def test_a_search_reads_without_problems_and_its_command_is_in_the_script(folder):
    page = gather([folder])
    assert page["notes"] == []
    command = json.loads((folder / "search.json").read_text())["command"]
    words = [word.split("=")[0] for word in shlex.split(command)[2:] if not word[0].isdigit()]
    lines = (FOLDER / "searches.sh").read_text()
    assert all(word in lines for word in words if word.startswith("--") or word == "experiment")


def test_there_are_searches():
    trials = {"nas_grid_tpe", "nas_compression_aware", "mixed_precision_formats"}
    assert trials | {"tables_0", "tables_1"} <= {folder.name for folder in SEARCHES}
