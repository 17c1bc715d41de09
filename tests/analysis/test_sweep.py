"""Run folders gathered: axes, points over seeds, failures, table, files."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from rich.console import Console

from halut.analysis.run_figures import FAILED, FINISHED, UNFINISHED
from halut.analysis.sweep_results import as_json, gather, write
from halut.analysis.sweep_table import missing_lines, sweep_table
from halut.errors import HalutError
from tests.analysis.written_runs import write_failure, write_run


def printed(sweep) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(sweep_table(sweep))
    return console.export_text()


@pytest.fixture
def folder(tmp_path):
    """Two widths x two seeds, retrained or not; one value failed, one is not finished."""
    accuracies = {(4, 0): (90, 94), (4, 1): (80, 96), (16, 0): (96, 97), (16, 1): (97, 97.5)}
    for (width, seed), tests in accuracies.items():
        for epochs, test in zip((0, 3), tests, strict=True):
            values = {"halut__width": width, "schedule__epochs": epochs, "seed": seed}
            write_run(tmp_path / f"w{width}e{epochs}s{seed}", test, exact=97 + seed, **values)
    write_failure(tmp_path / "w99", "halut.width must be in 2..32, got 99", halut__width=99)
    write_run(tmp_path / "w8", None, halut__width=8, schedule__epochs=0, seed=0)
    return tmp_path


def test_means_and_deviations_over_seeds(folder):
    sweep = gather(folder)
    assert sweep.axes == ["schedule.epochs", "halut.width", "seed"]
    assert (sweep.x, sweep.lines) == ("halut.width", ["schedule.epochs"])
    assert [tuple(point.values.values()) for point in sweep.points] == [
        (0, 4),
        (0, 16),
        (3, 4),
        (3, 16),
    ]
    first = sweep.points[0]
    assert first.runs == 2
    assert first.mean["test_accuracy"] == pytest.approx(85)
    assert first.std["test_accuracy"] == pytest.approx(10 / math.sqrt(2))  # the sample's
    assert first.mean["lost"] == pytest.approx(97.5 - 85)
    assert first.mean["normalized_mse"] == pytest.approx(0.2)
    assert first.mean["weight_bytes"] == 120
    assert "baseline_accuracy" not in first.mean


def test_what_is_not_finished_is_listed(folder):
    sweep = gather(folder)
    counts = [sweep.count(status) for status in (FINISHED, FAILED, UNFINISHED)]
    assert counts == [8, 1, 1]
    assert missing_lines(sweep) == [
        "10 runs: 8 finished, 1 failed, 1 unfinished",
        "failed: w99: halut.width must be in 2..32, got 99",
        "unfinished: w8: next: stage_00: train",
    ]


def test_the_table_uses_the_names_of_the_configuration(folder):
    lines = printed(gather(folder)).splitlines()
    assert "mean ± standard deviation over 2 seeds" in lines[0]
    assert "resnet8 on digits" in lines[0]
    assert "width in bits" in lines[2]
    assert any("post-training" in line and "85.00 ± 7.07" in line for line in lines)
    assert any("97.25 ± 0.35" in line for line in lines)


def test_integer_baselines_are_columns_where_every_run_has_them(folder):
    for path in folder.glob("w4e*/report.json"):
        report = json.loads(path.read_text())
        report["ptq"] = {"int8": {"test_accuracy": 96.5}, "int4": {"test_accuracy": 61.25}}
        path.write_text(json.dumps(report))
    sweep = gather(folder)
    assert sweep.points[0].mean["int4_accuracy"] == 61.25
    assert "int4_accuracy" not in sweep.points[1].mean
    lines = printed(sweep).splitlines()
    assert "int8" in lines[2]
    assert any("96.50 ± 0.00" in line and "61.25 ± 0.00" in line for line in lines)
    assert "int4: with 4-bit weights" in lines[-1]


def test_the_files_hold_every_run(folder):
    sweep = gather(folder)
    write(sweep)
    report = json.loads((folder / "sweep.json").read_text())
    assert report["counts"] == {"finished": 8, "failed": 1, "unfinished": 1}
    assert report["points"][3]["mean"]["test_accuracy"] == pytest.approx(97.25)
    failed = next(run for run in report["runs"] if run["status"] == "failed")
    assert failed["values"] == {"schedule.epochs": None, "halut.width": 99, "seed": None}
    assert failed["error"] == "halut.width must be in 2..32, got 99"
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert [row["run"] for row in rows] == [run["run"] for run in report["runs"]]
    row = next(row for row in rows if row["run"] == "w16e3s1")
    assert (row["halut.width"], row["seed"], row["test_accuracy"]) == ("16", "1", "97.5")
    assert gather(folder) == sweep  # what was written is no run


def test_options_that_a_name_brings_along_are_no_axes(tmp_path):
    write_run(tmp_path / "a", 90, halut__name="integer", halut__width=8, halut__calibrate="max")
    write_run(tmp_path / "b", 91, halut__name="log", halut__width=6)
    write_run(tmp_path / "c", 92, halut__name="log", halut__width=6, halut__per="channel")
    sweep = gather(tmp_path)
    assert sorted(sweep.axes) == ["halut.name", "halut.per"]


def test_an_axis_that_another_decides_makes_no_curves_of_its_own(tmp_path):
    for weight, activation in ((1, 2), (2, 2), (3, 3)):
        values = {"halut__weight__width": weight, "halut__activation__width": activation}
        write_run(tmp_path / str(weight), 90 + weight, **values)
    sweep = gather(tmp_path)
    assert sweep.axes == ["halut.activation.width", "halut.weight.width"]
    assert (sweep.x, sweep.lines) == ("halut.weight.width", [])


def test_a_run_that_failed_again_after_a_report_counts_as_failed(folder):
    (folder / "w4e0s0" / "error.json").write_text('{"error": "another configuration"}')
    assert gather(folder).count(FAILED) == 2


def test_folders_without_runs_are_refused_and_damaged_runs_listed(tmp_path):
    with pytest.raises(HalutError, match="no such folder"):
        gather(tmp_path / "none")
    with pytest.raises(HalutError, match="holds no run folder"):
        gather(tmp_path)
    write_run(tmp_path / "a", 90)
    (tmp_path / "a" / "report.json").write_text("{")
    write_run(tmp_path / "b", 91)
    sweep = gather(tmp_path)
    assert (sweep.count(FAILED), sweep.count(FINISHED)) == (1, 1)
    assert "report.json: damaged" in as_json(sweep)["runs"][0]["error"]
