"""`halut results`: lists, filters, exports, imports."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from halut.cli import main
from halut.results.store import Store
from tests.analysis.written_runs import write_failure, write_run
from tests.results.stored import RECORDS, sensitivity, write_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "results")
    (tmp_path / "results" / "a.jsonl").touch()
    return tmp_path / "results"


def test_it_lists_what_differs_and_tells_the_rest_above(store, capsys):
    assert main(["results", "--sort", "lost"]) == 0
    out = capsys.readouterr().out
    assert "sensitivity: 4 records; resnet8, digits, val, 270 samples" in " ".join(out.split())
    lines = [line for line in out.splitlines() if line.startswith("│")]
    assert [line.split("│")[1].strip() for line in lines] == [
        *("stack1.conv1", "stack1.conv2", "conv1", "fc")
    ]
    assert "not finite" in lines[-1]
    assert "0.50" in lines[0]
    assert "4 of 4 records of results" in out


def test_it_filters(store, capsys):
    arguments = ["--kind", "sensitivity", "--site", "stack1.*", "--where", "C=16", "lost<1"]
    assert main(["results", *arguments]) == 0
    assert "1 of 4 records" in capsys.readouterr().out
    assert main(["results", str(store), "--operator", "tree", "--limit", "1"]) == 0
    out = capsys.readouterr().out
    assert "3 of 4 records" in out
    assert "not finite: 1 record has no number for accuracy, lost" in out


def test_large_and_small_figures_have_a_prefix(store, capsys):
    figures = {"bytes": 1000.0, "operations": 5000.0, "bops": 3.6e5, "energy": 5.5e-6}
    figures["latency"] = 1.25e-4
    Store(store).append(sensitivity("fc", 0.0, kind="cost", figures=figures))
    assert main(["results", "--kind", "cost"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "│ 360 k │ 5.5 uJ │ 0.125 │" in out
    assert "latency ms" in out


def test_a_limit_below_0_is_refused(store, capsys):
    with pytest.raises(SystemExit):
        main(["results", "--limit", "-1"])
    assert "must be a whole number from 0, got '-1'" in capsys.readouterr().err


def test_lines_over_the_limit_are_counted(store, capsys):
    assert main(["results", "--limit", "3"]) == 0
    assert "1 more; --limit 0 shows all" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--site", "conv2"], "error: unknown site 'conv2'; did you mean conv1? choose one of: "),
        (["--kind", "cost"], "error: unknown kind 'cost'; choose one of: sensitivity"),
        (["--where", "C=99"], "error: none of 4 records has C=99: it is 16, 8"),
        (["--operator", "pq", "--where", "C=16"], "error: none of 1 record has C=16"),
        (["--operator", "pq", "--where", "Q=16"], "error: unknown field 'Q'; "),
        (["--where", "C"], "error: 'C' is no condition NAME=VALUE"),
        (["--sort", "loss"], "error: unknown field 'loss'; did you mean lost? "),
        (["nowhere"], "error: nowhere: no such store of results"),
        (["results/a.jsonl"], "error: results/a.jsonl: a file, and a store is a folder"),
        (["import", "nowhere"], "warning: nowhere: no such folder"),
    ],
)
def test_wrong_names_are_told_in_a_line(store, capsys, arguments, message):
    assert main(["results", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)


def test_an_empty_store_and_damaged_lines_are_told(tmp_path, capsys):
    assert main(["results", str(tmp_path)]) == 0
    assert "holds no record" in capsys.readouterr().out
    (tmp_path / "a.jsonl").write_text("{\n")
    assert main(["results", str(tmp_path)]) == 1
    assert "a.jsonl, line 1: no JSON" in capsys.readouterr().err


def test_results_of_another_network_are_told(store, capsys):
    other = {"model": "ds_cnn", "options": {}, "weights": "bbbb"}
    Store(store).append(sensitivity("fc", 1.0, network=other))
    assert main(["results"]) == 0
    assert "mixed: sensitivity, measured: 2 networks: " in capsys.readouterr().out
    assert main(["results", "--model", "ds_cnn"]) == 0
    assert "mixed" not in capsys.readouterr().out


def test_csv_and_json_have_every_field(store, capsys):
    assert main(["results", "--csv", "a.csv", "--json", "a.json"]) == 0
    with Path("a.csv").open() as file:
        rows = {row["site"]: row for row in csv.DictReader(file)}
    assert rows["stack1.conv2"]["options.C"] == "8"
    assert float(rows["stack1.conv2"]["figures.lost"]) == 1.5
    assert (rows["fc"]["figures.lost"], rows["fc"]["not_finite"]) == ("", "lost accuracy")
    records = json.loads(Path("a.json").read_text())["records"]
    assert {each["key"] for each in records} == {record.key for record in RECORDS}
    assert {each["figures"]["lost"] for each in records} == {4.0, 0.5, 1.5, None}


def test_run_folders_are_imported_once(tmp_path, capsys):
    runs, results = tmp_path / "runs", tmp_path / "results"
    values = {"halut__name": "tree", "halut__C": 4, "schedule__epochs": 1, "logger__name": "csv"}
    write_run(runs / "a", 95.0, seed=3, **values)
    write_run(runs / "b", 96.0, seed=4, **values)
    write_run(runs / "begun", None)
    write_failure(runs / "failed", "no memory")
    write_run(runs / "damaged", 95.0)
    (runs / "damaged" / "report.json").write_text("{")
    command = ["results", "import", str(runs), "--results", str(results)]

    assert main(command) == 1
    written = capsys.readouterr()
    assert "2 records added, 0 were there, 2 failed" in written.out
    assert f"unfinished: {runs / 'begun'}: next: stage_00: train" in written.err
    assert f"failed: {runs / 'failed'}: no memory" in written.err
    assert f"failed: {runs / 'damaged'}: report.json: damaged" in written.err

    first, second = sorted(Store(results).read().records, key=lambda record: record.seed)
    assert (first.kind, first.seed, second.seed) == ("run", 3, 4)
    assert first.network["model"] == "resnet8"
    assert first.data["name"] == "digits"
    assert first.figures["test_accuracy"] == 95.0
    assert first.figures["lost"] == pytest.approx(2.0)
    assert first.settings == {"schedule.epochs": 1, "halut.name": "tree", "halut.C": 4}
    assert first.context["run"] == str(runs / "a")

    assert main(command) == 1
    assert "0 records added, 2 were there, 2 failed" in capsys.readouterr().out
    assert len(Store(results).read().records) == 2
