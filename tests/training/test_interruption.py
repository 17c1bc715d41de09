"""A signal at any time ends the run in order; the same command ends with the same weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from halut.training import calibrate
from halut.training.cluster import early_signals, interruption
from halut.training.cluster.interruption import SIGNALS, Interrupted, SignalHandler
from halut.training.lightning.module import StageModule
from halut.training.logging.metrics import RunLogger
from halut.training.run_folder import default_path

OPTIONS = (
    "model.options.width=4",
    "data.train_samples=96",
    "data.val_samples=32",
    "data.batch_size=32",
    "policy.only=[stack2.conv1,stack3.conv1]",
    "base.epochs=1",
    "base.cache=null",
    "schedule.epochs=3",
    "capture.samples=64",
    "capture.rows=256",
    "recalibrate=1",
    "baseline=false",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "trainer.limit_test_batches=1",
    "logger.every=1",
)
BATCHES = 3 * (1 + 2 * 3)  # 3 a training epoch: one epoch of the base, three of each stage


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(autouse=True)
def _no_job(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def signal_at(monkeypatch) -> Callable[..., None]:
    """signal_at(owner, method, n, number): the n-th call of owner.method sends this process it."""

    def plant(owner: object, method: str, n: int, number: int = signal.SIGUSR1) -> None:
        original, calls = getattr(owner, method), [0]

        def wrapped(*args, **kwargs):
            calls[0] += 1
            if calls[0] == n:
                os.kill(os.getpid(), number)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, method, wrapped)

    return plant


def weights(run: Path) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in load_file(run / "bundle/model.safetensors").items()}


def figures(run: Path) -> list[str]:
    return sorted((run / "metrics.csv").read_text().splitlines())


def check_resumed(train, run: Path, whole: Path, *more: str) -> None:
    """The same command again ends as the undisturbed one did."""
    if not (whole / "report.json").exists():
        outcome = train(*OPTIONS, *more, f"run_dir={whole}")
        assert outcome.code == 0, outcome.err
    outcome = train(*OPTIONS, *more, f"run_dir={run}")
    assert outcome.code == 0, outcome.err
    assert weights(run) == weights(whole)
    assert figures(run) == figures(whole)


# The first step of all, an epoch's middle, its last step, a stage's last; a validation of a stage.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "method", "call"),
    [
        (StageModule, "training_step", 1),
        (StageModule, "training_step", 8),
        (StageModule, "training_step", 15),
        (StageModule, "training_step", BATCHES),
        (StageModule, "on_validation_epoch_end", 9),
        (RunLogger, "rewind", 3),
    ],
)
def test_a_signal_at_any_time(train, signal_at, monkeypatch, tmp_path, whole, owner, method, call):
    signal_at(owner, method, call)
    outcome = train(*OPTIONS, f"run_dir={tmp_path / 'run'}")
    monkeypatch.undo()
    assert outcome.code == 128 + signal.SIGUSR1, outcome.err
    assert "the same command with the same run_dir continues" in outcome.err
    assert not (tmp_path / "run" / "report.json").exists()
    check_resumed(train, tmp_path / "run", whole)


def test_a_signal_while_learning_costs_the_stage_alone(train, signal_at, monkeypatch, tmp_path):
    run = tmp_path / "run"
    signal_at(calibrate, "reservoirs_of", 2, signal.SIGTERM)
    options = [option for option in OPTIONS if not option.startswith("logger.")]
    options += ["schedule.calibrate=replaced", "schedule.refit=false"]  # one capture a stage
    outcome = train(*options, "schedule.epochs=0", "base.epochs=0", f"run_dir={run}")
    assert outcome.code == 143
    assert (run / "stage_00" / "stage.json").exists()
    assert not (run / "stage_01").exists()


def test_a_late_signal_ends_nothing_in_a_job(monkeypatch):
    """The race with handlers that are put back: under SLURM ours stay to the end of the process."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    before = {number: signal.getsignal(number) for number in SIGNALS}
    watch = SignalHandler()
    try:
        with watch.during_run():
            pass
        os.kill(os.getpid(), signal.SIGUSR1)
        assert watch.state == "idle"
        with (
            pytest.raises(Interrupted),
            watch.during_run(),
        ):  # a next run in this process hears of it
            pytest.fail("it was to end at once")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_outside_slurm_old_handlers_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    watch = SignalHandler()
    with watch.during_run():
        assert signal.getsignal(signal.SIGUSR1) == watch.handle
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_an_announcement_is_not_overruled_by_the_sigterm_behind_it():
    watch = SignalHandler()
    watch.handle(signal.SIGUSR2, None)
    watch.handle(signal.SIGTERM, None)
    with pytest.raises(Interrupted, match="SIGUSR2"):
        watch.raise_if_received()
    watch.raise_if_received()  # once


def test_a_signal_during_the_imports_is_answered_by_the_run(monkeypatch):
    monkeypatch.setattr(early_signals, "received", [signal.SIGUSR1])
    with pytest.raises(Interrupted, match="SIGUSR1"), SignalHandler().during_run():
        pytest.fail("it was to end at once")


@pytest.fixture
def scontrol(monkeypatch, tmp_path) -> Path:
    """A scontrol that notes how it was called."""
    script = tmp_path / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), os.pathsep)
    return tmp_path / "called"


@pytest.mark.parametrize(
    ("number", "requeue", "restarts", "called"),
    [
        (signal.SIGUSR1, True, "2", True),
        (signal.SIGUSR2, True, "2", True),
        (signal.SIGTERM, True, "2", False),  # whoever terminates sees to the rest
        (signal.SIGUSR1, False, "2", False),
        (signal.SIGUSR1, True, "3", False),
    ],
)
def test_who_requeues(monkeypatch, scontrol, capsys, number, requeue, restarts, called):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")  # 10 alone would be the whole array
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    monkeypatch.setattr(interruption, "signal_handler", SignalHandler())
    assert interruption.requeue_or_exit(Interrupted(number), requeue, limit=3) == 128 + number
    assert scontrol.exists() == called
    output = "".join(capsys.readouterr())
    if called:
        assert scontrol.read_text() == "requeue 10_2\n"
        assert "job 10_2 is in the queue again" in output
    else:
        assert "the same command with the same run_dir continues" in output


def test_a_job_names_its_run_folder_after_itself(monkeypatch):
    """Without run_dir a requeued job must find what it left."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert default_path({"seed": 1}) == default_path({"seed": 1})
    assert default_path({"seed": 1}).name.startswith("slurm-77-")
    assert default_path({"seed": 1}) != default_path({"seed": 2})


@pytest.mark.parametrize("method", ["training_step", "validation_step", "test_step"])
def test_an_interrupt_within_a_fit_or_an_evaluation_ends_with_130(
    train, tmp_path, signal_at, method
):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        signal_at(StageModule, method, 1, signal.SIGINT)
        outcome = train(*OPTIONS, "ptq=none", "schedule.epochs=0", f"run_dir={tmp_path / 'run'}")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.code == 130
    assert outcome.err.startswith("error: interrupted; the same command")
    assert outcome.err.count("\n") == 1
