"""The offline W&B run, read back from its own record."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from halut.errors import HalutError
from halut.io import write_json
from halut.training.config.run_config import LoggerConfig
from halut.training.logging.wandb_logger import WandbStageLogger
from halut.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
LAYER = (
    "normalized_mse",
    "code_perplexity",
    "dead_prototypes",
    "drift",
    "soft_hard_gap",
    "clipping_rate",
    "tau",
)
PLAIN = {"model": {"name": "resnet8"}, "halut": {"C": 4}}
REPORT = {
    "base": {"origin": "random", "test_accuracy": 91.5},
    "baseline": {"test_accuracy": None},
    "ptq": {"int8": {"library": "torchao", "weight_bits": 8, "test_accuracy": 91.25}},
    "final": {"test_accuracy": 90.25},
    "cost": {"replaced": {"table_bytes": 4096}},
}


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    """No key, no settings and no caches of the machine."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))


def logger(path: Path, name: str = "wandb_offline", **settings) -> WandbStageLogger:
    config = LoggerConfig(name=name, **settings)
    return WandbStageLogger(config, PLAIN, RunFolder(path), name == "wandb_offline")


def bundle(path: Path) -> Path:
    entry = {"site": {"name": "conv1", "D": 9, "M": 4}, "operator": "tree", "options": {"C": 2}}
    write_json(path / "plan.json", {"version": 1, "entries": [entry]})
    write_json(path / "report.json", REPORT)
    (path / "model.safetensors").write_bytes(b"\0" * 64)
    return path


def records(part: Path) -> list[dict]:
    """Every record of a part of a run, as W&B's own reader prints them."""
    command = [shutil.which("wandb") or "wandb", "leet", "inspect", "--json"]
    (file,) = part.glob("*.wandb")
    out = subprocess.run([*command, str(file)], capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def of(kind: str, *parts: Path) -> list[dict]:
    return [r[kind] for part in parts for r in records(part) if r["type"] == kind]


def history(*parts: Path) -> list[dict]:
    return [record["item"] for record in of("history", *parts)]


def summary(*parts: Path) -> dict:
    merged: dict = {}
    for record in of("summary", *parts):
        merged.update(record.get("update", {}))
    return merged


def stage(w: WandbStageLogger, number: int, offset: int) -> None:
    """What one stage of two epochs logs."""
    name = f"stage_{number:02d}"
    w.log(name, offset, {"stage/val_accuracy_before": 90.0, "stage/val_accuracy_after_swap": 50.0})
    for step in (offset + 1, offset + 2):
        w.log(name, step, {"train/loss": 1 / (1 + step), "train/distillation": 0.5})
        w.log(name, step, {f"layers/conv{number}/{key}": float(step) for key in LAYER})
        w.log(name, step, {"val/accuracy": 80.0 + step})
    w.log(name, offset + 3, {"stage/val_accuracy_after_training": 80.0 + number})


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run of two stages, closed after the first and resumed in a second process's manner."""
    path = tmp_path_factory.mktemp("runs") / "run"
    first = logger(path, project="tables", group="digits", tags=["a", "b"])
    stage(first, 0, 0)
    first.close()
    RunFolder(path).next_action("stage_01: train")
    second = logger(path, project="tables", group="digits", tags=["a", "b"])
    second.log("stage_00", 2, {"train/loss": 1 / 3})  # the checkpoint lay before this step
    stage(second, 1, 3)
    second.log_bundle(bundle(path / "bundle"), REPORT)
    second.close()
    return path, first, second


def test_a_resumed_run_is_the_same_run(resumed):
    path, first, second = resumed
    state = RunFolder(path).read("state.json")
    assert first.id == second.id == state["wandb_id"]
    assert state["next"] == "stage_01: train"
    assert len(second.parts()) == 2
    runs = of("run", *second.parts())
    assert [run["run_id"] for run in runs] == [first.id] * 2
    assert all(run["resume"] for run in runs)
    assert {run["project"] for run in runs} == {"tables"}
    assert {run["run_group"] for run in runs} == {"digits"}
    assert runs[0]["tags"] == ["a", "b"]
    assert {run["display_name"] for run in runs} == {"run"}
    assert runs[0]["config"]["update"]["halut"] == {"C": 4}


def test_the_step_is_monotonic_over_stages_and_the_resume(resumed):
    rows = history(*resumed[2].parts())
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 6)
    assert [row["_step"] - row["stage/index"] for row in rows] == steps
    assert {row["stage"] for row in rows} == {"stage_00", "stage_01"}
    assert {row["stage/index"] for row in rows} == {0, 1}


def test_the_row_between_two_stages_is_split(resumed):
    rows = [row for row in history(*resumed[2].parts()) if row["step"] == 3]
    assert [row["stage"] for row in rows] == ["stage_00", "stage_01"]
    assert rows[0]["stage/val_accuracy_after_training"] == 80.0
    assert "stage/val_accuracy_after_training" not in rows[1]
    assert rows[1]["stage/val_accuracy_before"] == 90.0


def test_stages_without_training_have_a_row_each(tmp_path):
    w = logger(tmp_path / "run")
    for number in range(3):
        w.log(f"stage_{number:02d}", 0, {"stage/val_accuracy_after_swap": 10.0 * number})
    w.close()
    rows = history(*w.parts())
    assert [row["stage/val_accuracy_after_swap"] for row in rows] == [0.0, 10.0, 20.0]
    assert [row["step"] for row in rows] == [0, 0, 0]


def test_the_step_is_defined_as_the_axis_of_every_figure(resumed):
    for part in resumed[2].parts():
        metrics = of("metric", part)
        assert any(metric.get("name") == "step" for metric in metrics)
        (axis,) = [metric for metric in metrics if metric.get("glob_name") == "*"]
        assert axis["step_metric"] == "step"


def test_every_figure_arrives_with_its_value(resumed):
    rows = {row["step"]: row for row in history(*resumed[2].parts())}
    assert rows[2]["train/loss"] == pytest.approx(1 / 3)
    assert rows[5]["train/loss"] == pytest.approx(1 / 6)
    assert rows[5]["val/accuracy"] == 85.0
    for key in LAYER:
        assert rows[1][f"layers/conv0/{key}"] == 1.0
        assert rows[4][f"layers/conv1/{key}"] == 4.0


def test_stage_results_and_the_report_are_in_the_summary(resumed):
    figures = summary(*resumed[2].parts())
    assert figures["stage_00/val_accuracy_before"] == 90.0
    assert figures["stage_00/val_accuracy_after_swap"] == 50.0
    assert figures["stage_00/val_accuracy_after_training"] == 80.0
    assert figures["stage_01/val_accuracy_after_training"] == 81.0
    assert figures["stage/val_accuracy_after_training"] == 81.0
    assert figures["base/test_accuracy"] == 91.5
    assert figures["final/test_accuracy"] == 90.25
    assert figures["ptq/int8/test_accuracy"] == 91.25
    assert figures["cost/replaced/table_bytes"] == 4096
    assert "baseline/test_accuracy" not in figures


def test_the_bundle_is_an_artifact_with_its_plan_and_report(resumed):
    path, _, second = resumed
    (artifact,) = [a for a in of("artifact", *second.parts()) if a["type"] == "model"]
    assert artifact["name"] == f"bundle-{second.id}"
    files = {entry["path"]: entry for entry in artifact["manifest"]["contents"]}
    assert set(files) == {"model.safetensors", "plan.json", "report.json"}
    assert files["plan.json"]["local_path"] == str(path / "bundle" / "plan.json")
    metadata = artifact["metadata"]
    metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
    assert metadata["plan"]["version"] == 1
    assert metadata["report"] == REPORT


def test_the_tables_of_the_page_are_in_the_summary(resumed):
    second = resumed[2]
    figures = summary(*second.parts())
    tables = {name: value for name, value in figures.items() if name.startswith("tables")}
    assert set(tables) == {"tables/networks", "tables/sites"}
    (file,) = second.parts()[-1].glob("files/media/table/**/sites*.json")
    content = json.loads(file.read_text())
    row = dict(zip(content["columns"], content["data"][0], strict=True))
    assert (row["site"], row["operator"], row["C"], row["V"]) == ("conv1", "tree", 2, 5)
    networks = tables["tables/networks"]
    assert (networks["_type"], networks["nrows"]) == ("table-file", 3)


def test_only_a_run_whose_bundle_was_logged_counts_as_finished(resumed):
    codes = [record.get("exit_code", 0) for record in of("exit", *resumed[2].parts())]
    assert codes == [1, 0]


def test_the_only_line_printed_is_how_to_upload_every_part(tmp_path, capfd):
    path = tmp_path / f"a run {'x' * 90}"
    w = logger(path)
    w.log("base", 0, {"train/loss": 1.0})
    w.log_bundle(bundle(tmp_path / "bundle"), REPORT)
    w.close()
    again = logger(path)
    capfd.readouterr()
    again.close()
    out, err = capfd.readouterr()
    assert err == ""
    (line,) = out.splitlines()
    command = shlex.split(line)
    assert command[:2] == ["wandb", "sync"]
    assert [Path(name) for name in command[2:]] == again.parts()
    assert len(command) == 4
    assert all(
        Path(name).is_absolute() and list(Path(name).glob("*.wandb")) for name in command[2:]
    )


def test_a_figure_reported_late_joins_the_latest_row(tmp_path):
    w = logger(tmp_path / "run")
    w.log("base", 20, {"layers/conv1/drift": 0.5})
    w.log("base", 19, {"val/accuracy": 75.0})
    w.close()
    (row,) = history(*w.parts())
    assert (row["step"], row["val/accuracy"], row["layers/conv1/drift"]) == (20, 75.0, 0.5)


def test_what_a_killed_process_had_not_closed_is_logged_again(tmp_path):
    path = tmp_path / "run"
    killed = logger(path)
    killed.log("base", 50, {"train/loss": 1.0})
    killed.run.finish()  # not closed by us: nobody noted how far it came
    w = logger(path)
    w.log("base", 40, {"train/loss": 2.0})
    w.close()
    assert [row["step"] for row in history(*w.parts())] == [50, 40]


def test_nothing_of_wandb_is_written_outside_the_run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    w = logger(tmp_path / "runs" / "a")
    w.log_bundle(bundle(tmp_path / "runs" / "a" / "bundle"), REPORT)
    w.close()
    assert not (tmp_path / "wandb").exists()
    home = tmp_path / "home"
    copies = [p for p in home.rglob("*") if p.is_file() and p.stat().st_size == 64]
    assert copies == []


@pytest.mark.parametrize("module", [None, types.ModuleType("wandb")], ids=["absent", "a folder"])
def test_without_wandb_one_error_names_what_to_install(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(HalutError) as error:
        logger(tmp_path / "run")
    message = str(error.value)
    assert "pip install 'halut[wandb]'" in message
    assert "logger=csv" in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


def test_online_without_an_account_names_what_works_without_one(tmp_path):
    with pytest.raises(HalutError, match=r"(?s)API key.*logger=wandb_offline"):
        logger(tmp_path / "run", "wandb")
    assert RunFolder(tmp_path / "run").read("state.json") is None


@pytest.mark.slow
def test_a_run_from_the_command_line_shows_every_figure(tmp_path):
    run = tmp_path / "run"
    options = ("debug=smoke", "logger=wandb_offline", "logger.every=1", f"run_dir={run}")
    sites = ("stack1.conv1", "stack1.conv2")
    only = f"policy.only=[{','.join(sites)}]"
    done = subprocess.run(
        [sys.executable, "train.py", *options, only, "trainer.accelerator=cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("wandb sync ")]
    (part,) = [Path(name) for name in shlex.split(line)[2:]]
    assert part.parent == run / "wandb"
    assert "wandb:" not in done.stdout + done.stderr

    rows = history(part)
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps)
    assert {row["stage"] for row in rows} == {"stage_00", "stage_01", "baseline"}
    logged = {(row["stage"], key) for row in rows for key in row}
    for number, site in enumerate(sites):
        for key in LAYER:
            assert (f"stage_{number:02d}", f"layers/{site}/{key}") in logged
        for key in ("train/loss", "train/cross_entropy", "train/distillation", "val/accuracy"):
            assert (f"stage_{number:02d}", key) in logged
    report = json.loads((run / "report.json").read_text())
    figures = summary(part)
    for number, stage_of_report in enumerate(report["stages"]):
        for when in ("before", "after_swap", "after_training"):
            key = f"val_accuracy_{when}"
            assert figures[f"stage_{number:02d}/{key}"] == stage_of_report[key]
    assert figures["final/test_accuracy"] == report["final"]["test_accuracy"]
    # W&B keeps the tables' rows in artifacts of their own.
    contents = [each["manifest"]["contents"] for each in of("artifact", part)]
    bundle = {"model.safetensors", "plan.json", "report.json"}
    files = [{entry["path"] for entry in each} for each in contents]
    assert sum(bundle <= each for each in files) == 1
