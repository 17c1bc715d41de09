"""benchmarks/accuracy.py: rows that compose, what is run, and what is written of it."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from halut.errors import HalutError
from halut.training.config.hydra_schemas import conf_dir, register

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def accuracy():
    spec = importlib.util.spec_from_file_location("accuracy", FOLDER / "accuracy.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["accuracy"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["accuracy"]


def report(val, test, exact):
    stage = {"val_accuracy_after_swap": 70.0, "epochs": 2, "steps": 10, "seconds": 120.0}
    return {
        "stages": [stage],
        "base": {"val_accuracy": 91.0, "test_accuracy": 90.0},
        "baseline": {"epochs": 2, "val_accuracy": 92.0, "test_accuracy": exact},
        "final": {"val_accuracy": val, "test_accuracy": test},
        "sites": [{"bytes": 1000}, {"bytes": None}, {"bytes": 24}],
        "environment": {"threads": 1, "commit": "abc"},
    }


def rows_file(folder, **group):
    rows = [{"name": "one", "what": "first", "options": "halut.K=8"}, {"name": "two", "what": "b"}]
    group = {"title": "A group", "text": "Text.", "common": "model=resnet8", "rows": rows, **group}
    path = folder / "accuracy.yaml"
    path.write_text(json.dumps({"head": "Head.", "groups": {"group": group}}))
    return path


def test_every_row_of_the_file_composes(accuracy):
    _, rows = accuracy.read_rows(FOLDER / "accuracy.yaml")
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        for row in rows:
            config = compose("train", [*row.options, f"seed={row.seeds[0]}"])
            assert config.seed == row.seeds[0]


def test_a_group_that_chooses_reads_no_test_images(accuracy):
    groups, rows = accuracy.read_rows(FOLDER / "accuracy.yaml")
    for row in rows:
        reads = "trainer.limit_test_batches=1" not in row.options
        assert reads != groups[row.group].get("chooses", False), row.name


def test_finished_runs_become_lines(accuracy, tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "HERE", tmp_path)
    groups, rows = accuracy.read_rows(rows_file(tmp_path, seeds=[0, 1]))
    for seed, figures in enumerate([(89.0, 88.0, 91.0), (89.5, 89.0, 91.5)]):
        folder = rows[0].folder(tmp_path / "runs", seed)
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(report(*figures)))
    accuracy.write(groups, rows, tmp_path / "runs", tmp_path)
    text = (tmp_path / "accuracy.md").read_text()
    cells = ["first", "70.00 ± 0.00", "89.25 ± 0.35", "88.50 ± 0.71", "91.25 ± 0.35", "2.75 ± 0.35"]
    assert " | ".join([*cells, "1,024"]) in text
    assert "| `halut.K=8` |" in text
    assert "| b |" not in text
    (row,) = json.loads((tmp_path / "accuracy.json").read_text())["rows"]
    assert row["command"] == "python train.py -m model=resnet8 halut.K=8 seed=0,1"
    assert [r["tables_test"] for r in row["results"]] == [88.0, 89.0]


def test_results_outlive_their_runs_until_the_command_changes(accuracy, tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "HERE", tmp_path)
    path = rows_file(tmp_path, chooses=True)
    groups, rows = accuracy.read_rows(path)
    folder = rows[1].folder(tmp_path / "runs", 0)
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report(89.0, 88.0, 91.0)))
    accuracy.write(groups, rows, tmp_path / "runs", tmp_path)
    first = (tmp_path / "accuracy.md").read_text()
    assert "| b | 70.00 | 89.00 | 10 |" in first
    assert "88.00" not in first  # what chooses shows no test accuracy
    assert "_test" not in (tmp_path / "accuracy.json").read_text()
    _, again = accuracy.read_rows(path)
    accuracy.write(groups, again, tmp_path / "elsewhere", tmp_path)
    assert (tmp_path / "accuracy.md").read_text() == first
    groups, other = accuracy.read_rows(rows_file(tmp_path, chooses=True, common="model=resnet20"))
    accuracy.write(groups, other, tmp_path / "elsewhere", tmp_path)
    assert "| b |" not in (tmp_path / "accuracy.md").read_text()


def test_a_failed_run_is_told_and_tried_again(accuracy, tmp_path, monkeypatch):
    _, (row, _) = accuracy.read_rows(rows_file(tmp_path))
    codes = iter([3, 0])
    commands = []

    def finish(command, **kwargs):
        commands.append(command)
        return subprocess.CompletedProcess(command, next(codes))

    monkeypatch.setattr(accuracy.subprocess, "run", finish)
    (line,) = accuracy.run(row, tmp_path, ["trainer.threads=1"])
    assert line.startswith("group one seed=0: ended with 3, see ")
    assert list(accuracy.run(row, tmp_path, [])) == ["group one seed=0: done"]
    assert shlex.join(commands[0][1:]) == (
        f"train.py model=resnet8 halut.K=8 seed=0 run_dir={tmp_path}/group/one-s0 trainer.threads=1"
    )
    row.folder(tmp_path, 0).mkdir(parents=True)
    (row.folder(tmp_path, 0) / "report.json").write_text("{}")
    assert list(accuracy.run(row, tmp_path, [])) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: {a: {rows: [{what: x}]}}", "holds no rows: KeyError"),
        ("[", "holds no rows"),
        (
            "groups: {a: {rows: [{name: x, what: y}, {name: x, what: z}]}}",
            "two rows of a are",
        ),
    ],
)
def test_files_of_no_rows_are_refused(accuracy, tmp_path, text, message):
    path = tmp_path / "accuracy.yaml"
    path.write_text(text)
    with pytest.raises(HalutError, match=message):
        accuracy.read_rows(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give groups to run, or --write; groups: "),
        (["ablatoin"], "unknown group 'ablatoin'; choose from: "),
        (["start", "--only", "nothing"], "unknown row 'nothing'; choose from: plain, "),
    ],
)
def test_wrong_arguments_end_with_one_line(accuracy, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        accuracy.main()
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_group_with_a_picture_draws_its_curves(accuracy, tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        {"name": name, "what": name, "curve": "trees", "options": f"halut.V={V}"}
        for name, V in (("small", 9), ("large", 3))
    ]
    path = rows_file(tmp_path, rows=rows, picture="bytes.svg")
    groups, rows = accuracy.read_rows(path)
    for row in rows:
        folder = row.folder(tmp_path / "runs", 0)
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(report(90.0, 89.0, 91.0)))

    accuracy.write(groups, rows, tmp_path / "runs", tmp_path)

    assert "![A group](bytes.svg)" in (tmp_path / "accuracy.md").read_text()
    assert "trees" in (tmp_path / "bytes.svg").read_text()
