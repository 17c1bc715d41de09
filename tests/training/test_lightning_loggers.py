"""TensorBoard's and MLflow's figures, read back; and loggers that do not exist, or fail."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

import pytest

from halut.errors import HalutError
from halut.training.config.logger_names import check_loggers, names_of, options_by_name
from halut.training.logging.lightning_logger import LightningLogger
from halut.training.logging.metrics import MetricsCsv, RunLogger
from halut.training.run_folder import RunFolder

PLAIN = {"model": {"name": "resnet8"}, "halut": {"C": 4}}
REPORT = {"base": {"origin": "random", "test_accuracy": 91.5}, "final": {"test_accuracy": 90.25}}


def begun(path: Path, name: str, **options) -> RunLogger:
    """The loggers of a process that begins or resumes a run."""
    folder = RunFolder(path)
    csv = MetricsCsv(path / "metrics.csv")
    return RunLogger([csv, LightningLogger(name, options, PLAIN, folder)])


def two_stages_and_a_resume(path: Path, name: str) -> None:
    """Stage 0 has 4 steps; the process ends in step 5 of the run, and resumes from step 4."""
    logger = begun(path, name)
    logger.stage = "stage_00"
    for step in range(4):
        logger.log_metrics({"train/loss": 1.0 / (1 + step)}, step)
    logger.offset += 4
    logger.stage = "stage_01"
    logger.log_metrics({"train/loss": 0.1}, 0)
    logger.log_metrics({"train/loss": 0.05}, 1)
    logger.finish()
    logger = begun(path, name)
    logger.offset, logger.stage = 4, "stage_01"
    logger.rewind(0)
    for step, loss in enumerate((0.1, 0.05, 0.025)):
        logger.log_metrics({"train/loss": loss, "val/accuracy": 90.0 + step}, step)
    logger.log_bundle(path / "bundle", REPORT)
    logger.finish()


LOSSES = [(0, 1.0), (1, 1 / 2), (2, 1 / 3), (3, 1 / 4), (4, 0.1), (5, 0.05), (6, 0.025)]


def events(path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(path), purge_orphaned_data=False)
    return accumulator.Reload()


def test_tensorboard_has_every_step_once_over_stages_and_the_resume(tmp_path):
    pytest.importorskip("tensorboard")
    two_stages_and_a_resume(tmp_path / "run", "tensorboard")
    folder = tmp_path / "run" / "tensorboard"
    assert len(list(folder.glob("events.*"))) == 2
    found = events(folder)
    scalars = found.Scalars("train/loss")
    assert [s.step for s in scalars] == [step for step, _ in LOSSES]
    assert [s.value for s in scalars] == pytest.approx([loss for _, loss in LOSSES])
    assert [(s.step, s.value) for s in found.Scalars("val/accuracy")] == [
        *((4, 90.0), (5, 91.0), (6, 92.0))
    ]
    assert [(s.step, s.value) for s in found.Scalars("final/test_accuracy")] == [(6, 90.25)]


def test_tensorboard_has_the_configuration_once(tmp_path):
    pytest.importorskip("tensorboard")
    two_stages_and_a_resume(tmp_path / "run", "tensorboard")
    found = events(tmp_path / "run" / "tensorboard")
    assert len(found.Scalars("hp_metric")) == 1
    text = (tmp_path / "run" / "tensorboard" / "hparams.yaml").read_text()
    assert "C: 4" in text


def test_options_are_the_arguments_of_the_class(tmp_path):
    pytest.importorskip("tensorboard")
    logger = begun(tmp_path / "run", "tensorboard", save_dir=str(tmp_path / "all"), prefix="a")
    logger.log_metrics({"train/loss": 0.5}, 0)
    logger.finish()
    found = events(tmp_path / "all" / "tensorboard")
    assert [s.value for s in found.Scalars("a-train/loss")] == [0.5]


def test_only_the_main_rank_has_loggers(tmp_path, monkeypatch):
    from halut.training.config.run_config import TrainConfig
    from halut.training.logging.loggers import make_loggers

    monkeypatch.setenv("RANK", "1")
    assert make_loggers(TrainConfig(), PLAIN, RunFolder(tmp_path / "run")) == []
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_mlflow_has_every_step_once_over_stages_and_the_resume(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed: it is large")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    two_stages_and_a_resume(tmp_path / "run", "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db")
    experiment = client.get_experiment_by_name("halut")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["halut/C"] == "4"
    history = sorted(client.get_metric_history(run.info.run_id, "train/loss"), key=lambda m: m.step)
    assert [m.step for m in history] == [step for step, _ in LOSSES]
    assert [m.value for m in history] == pytest.approx([loss for _, loss in LOSSES])
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


class Failing:
    """A logger whose disk is full from the second figure on."""

    name = "failing"

    def __init__(self) -> None:
        self.calls = 0

    def log(self, stage, step, figures):
        self.calls += 1
        if self.calls == 2:
            raise OSError(28, "No space left on device")

    def close(self):
        self.calls += 100


def test_a_logger_that_fails_is_left_out_and_the_run_goes_on(tmp_path, caplog, monkeypatch):
    failing = Failing()
    logger = RunLogger([failing, MetricsCsv(tmp_path / "metrics.csv")])
    caplog.clear()
    monkeypatch.setattr(logging.getLogger("halut"), "propagate", True)
    for step in range(4):
        logger.log_metrics({"train/loss": 1.0}, step)
    logger.finish()
    assert failing.calls == 2
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 5
    messages = {r.getMessage() for r in caplog.records if "failing" in r.getMessage()}
    assert len(messages) == 1  # a handler of another test may have seen it as well
    assert "No space left on device" in messages.pop()


def test_metrics_csv_that_fails_ends_the_run(tmp_path):
    logger = RunLogger([MetricsCsv(tmp_path / "metrics.csv")])
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(OSError, match=r"metrics\.csv"):
        logger.log_metrics({"a": 1.0}, 0)


def test_a_logger_that_cannot_be_made_is_one_line(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(HalutError, match=r"^logger=tensorboard: [^\n]+$"):
        begun(tmp_path / "run", "tensorboard", save_dir=str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("csv", []),
        ("tensorboard", ["tensorboard"]),
        ("TensorBoardLogger", ["tensorboard"]),
        (["csv", "wandb_offline", "MLFlowLogger", "mlflow"], ["wandb_offline", "mlflow"]),
    ],
)
def test_names(name, names):
    assert names_of(name) == names


def test_several_loggers_have_options_of_their_own():
    names, options = ["tensorboard", "mlflow"], {"mlflow": {"run_name": "a"}}
    assert options_by_name(names, options) == {"tensorboard": {}, "mlflow": {"run_name": "a"}}
    assert options_by_name(["mlflow"], {"run_name": "a"}) == {"mlflow": {"run_name": "a"}}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("tensorbord", {}, "unknown logger.name 'tensorbord'; did you mean tensorboard"),
        (["wandb", "wandb_offline"], {}, "online or offline"),
        (["tensorboard", "wandb"], {"prefix": "a"}, "logger.options.tensorboard.KEY=VALUE"),
        ("mlflow", {"runname": "a"}, "logger=mlflow has no option runname; choose from: experi"),
    ],
)
def test_what_cannot_be_is_refused_by_one_line(name, options, words, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: package)
    with pytest.raises(HalutError) as error:
        check_loggers(name, options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("tensorboard", "tensorboard", "pip install 'halut[tensorboard]'"),
        ("mlflow", "mlflow", "pip install 'halut[mlflow]'"),
        ("comet", "comet_ml", "pip install comet_ml"),
    ],
)
def test_a_missing_package_is_one_line_before_anything_trains(
    name, package, install, monkeypatch, tmp_path, train
):
    for each in (package, "tensorboardX"):
        monkeypatch.setitem(sys.modules, each, None)
    outcome = train(f"logger.name={name}", f"run_dir={tmp_path / 'run'}", "base.cache=null")
    assert outcome.code == 1
    assert f"logger={name} needs {package}: {install}" in " ".join(outcome.err.split())
    assert not (tmp_path / "run").exists()
