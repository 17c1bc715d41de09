"""Runs of other kinds, models and versions in one folder: one table, whatever lies beside them."""

from __future__ import annotations

import io
import json
import os

import pytest
from rich.console import Console

from halut.analysis.run_figures import FAILED, FINISHED, figures_of
from halut.analysis.sweep_results import MAX_AXES, gather, write
from halut.analysis.sweep_table import missing_lines, sweep_table
from halut.cli import main
from tests.analysis.written_runs import report, write_failure, write_run


def printed(sweep, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(sweep_table(sweep, width))
    return console.export_text()


@pytest.fixture
def mixed(tmp_path):
    """Two models, three operators, and a dozen options that come along with them."""
    kinds = (("resnet8", "tree", 4), ("resnet8", "pq", 8), ("tiny_vit", "tree", 4))
    for index, (model, operator, C) in enumerate((*kinds, ("tiny_vit", "integer", None))):
        options = {f"optim__option{i}": f"{i}-{model}" for i in range(12)}
        options |= {f"capture__number{i}": i * len(operator) for i in range(4)}
        values = {"model__name": model, "halut__name": operator, "halut__C": C, "seed": 0}
        write_run(tmp_path / f"jobs/[{index}]", 90 + index, **values, **options)
    return tmp_path


@pytest.mark.parametrize("width", [80, 140])
def test_runs_with_little_in_common_make_a_table_that_fits(mixed, width):
    sweep = gather(mixed)
    assert len(sweep.axes) > 12
    assert len(sweep.columns) <= MAX_AXES
    assert {"model.name", "halut.name"} <= set(sweep.columns)
    text = printed(sweep, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    flat = text.replace(" ", "").replace("\n", "").replace("│", "")
    assert "optim.option3" in flat  # below the table, as one of those that it leaves out
    for index in range(4):
        assert f"jobs/[{index}]" in text
        assert f"9{index}.00" in text
    write(sweep)
    assert "optim.option3" in (mixed / "sweep.csv").read_text().splitlines()[0]


def test_few_axes_are_all_shown_and_runs_not_named(tmp_path):
    for index in range(3):
        write_run(tmp_path / f"run{index}", 90, halut__C=index, halut__K=2 * index)
    sweep = gather(tmp_path)
    assert sweep.columns == sweep.axes
    assert "run0" not in printed(sweep, 140)


def test_no_curve_joins_two_models(tmp_path):
    """Also where another option, which every run has of its own, tells them apart."""
    for epochs in range(4):
        model = ("resnet8", "tiny_vit")[epochs % 2]
        write_run(tmp_path / str(epochs), 90, model__name=model, schedule__epochs=epochs)
    sweep = gather(tmp_path)
    assert (sweep.x, sweep.lines) == ("schedule.epochs", ["model.name"])


def test_where_and_how_a_run_was_kept_is_no_axis(tmp_path):
    for index in range(2):
        variations = {"trainer__threads": index, "trainer__progress": bool(index)}
        write_run(
            tmp_path / str(index), 90, seed=index, trainer__checkpoint_every=index, **variations
        )
    assert gather(tmp_path).axes == ["seed"]


DAMAGED = {
    "report.json": ["{", "", "null", "[]", "3", '"text"', "{}", '{"final": 5}', "[" * 100_000],
    "config.json": ["{", "[]", "\x00"],
    "state.json": ["{", "[1]"],
    "error.json": ["", "[]", "{"],
}


@pytest.mark.parametrize(("name", "text"), [(n, text) for n, ts in DAMAGED.items() for text in ts])
def test_a_damaged_run_is_listed_and_the_others_stay(tmp_path, name, text):
    write_run(tmp_path / "good", 91, halut__C=1)
    write_run(tmp_path / "bad", None if name == "state.json" else 90, halut__C=2)
    (tmp_path / "bad" / name).write_text(text)
    sweep = gather(tmp_path)
    assert (sweep.count(FINISHED), sweep.count(FAILED)) == (1, 1)
    line = missing_lines(sweep)[1]
    assert line.startswith(f"failed: bad: {name}: ")
    assert "\n" not in line
    assert main(["table", str(tmp_path)]) == 1
    assert (tmp_path / "sweep.csv").exists()


def test_bytes_that_are_no_text_are_damage_too(tmp_path):
    write_run(tmp_path / "bad", 90)
    (tmp_path / "bad" / "report.json").write_bytes(b"\xff\xfe{}")
    assert gather(tmp_path).count(FAILED) == 1


def test_reports_of_other_versions_show_what_they_have(tmp_path):
    write_run(tmp_path / "now", 91, halut__C=1)
    write_run(tmp_path / "then", 90, halut__C=2)
    earlier = {"schema": 0, "final": {"test_accuracy": 90}, "sites": None, "stages": []}
    (tmp_path / "then" / "report.json").write_text(json.dumps(earlier))
    write_run(tmp_path / "later", 92, halut__C=3)
    later = {**report(92, 97), "schema": 99, "cost": {"replaced": "elsewhere"}, "seconds": "two"}
    (tmp_path / "later" / "report.json").write_text(json.dumps(later))
    sweep = gather(tmp_path)
    assert [p.mean["test_accuracy"] for p in sweep.points] == [91, 90, 92]
    assert "lost" not in sweep.points[1].mean
    assert "bops" not in sweep.points[2].mean
    assert sweep.points[0].mean["bops"] == 1e6
    text = printed(sweep, 140)
    assert "90.00" in text
    assert "92.00" in text


def test_what_is_no_run_is_passed_over(tmp_path):
    write_run(tmp_path / "models/mine/run", 91)
    (tmp_path / "models" / "mine" / "config.json").write_text('{"architectures": ["BertModel"]}')
    (tmp_path / "models" / "mine" / "model.safetensors").write_bytes(b"")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "report.json").write_text("{")
    (tmp_path / "a file").write_text("")
    os.symlink(tmp_path, tmp_path / "notes" / "loop")
    os.symlink(tmp_path / "nowhere", tmp_path / "broken")
    sweep = gather(tmp_path)
    assert [sweep.name(run.path) for run in sweep.runs] == ["models/mine/run"]


def test_names_that_are_no_text_and_markup_in_names(tmp_path, capsys):
    write_failure(tmp_path / os.fsdecode(b"caf\xe9"), "no [red]memory", halut__C=1)
    write_run(tmp_path / "[bold]C=2", 91, halut__C=2)
    assert main(["table", str(tmp_path)]) == 1
    assert "failed: caf\\udce9: no [red]memory" in capsys.readouterr().out
    assert "caf\\udce9" in (tmp_path / "sweep.csv").read_text()


def test_every_number_of_a_report_is_a_figure():
    figures = figures_of(
        {
            **report(90, 97),
            "memory": {"after": {"total": 1200, "tables": 700}, "saving": float("nan")},
            "cost": {
                "replaced": {
                    "macs": 5, "encode_compares": 3, "encode_macs": 2, "lookups": 10, "adds": 10,
                    "weight_bytes": 100, "table_bytes": 700,
                },
                "exact": {"macs": 99},
            },
            "ptq": {"int8": {"bytes": 640, "library": "torchao"}},
        }
    )  # fmt: skip
    assert (figures["operations"], figures["bytes"], figures["weight_bytes"]) == (20, 1200, 800)
    assert (figures["memory.after.tables"], figures["cost.exact.macs"]) == (700, 99)
    assert figures["ptq.int8.bytes"] == 640
    assert "ptq.int8.library" not in figures
    assert "memory.saving" not in figures  # not a number
