"""A signal at any time ends the run in order; the same command ends with the same weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from halut import announced
from halut.training import interruption, slurm
from halut.training.interruption import Interrupted, Watch
from halut.training.learning import Context
from halut.training.module import StageModule

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
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def signal_at(monkeypatch) -> Callable[..., None]:
    """signal_at(owner, method, n, number): the n-th call of owner.method sends this process it."""

    def plant(owner: type, method: str, n: int, number: int = signal.SIGUSR1) -> None:
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


@pytest.mark.parametrize("batch", range(1, BATCHES + 1))
def test_a_signal_in_any_training_step(train, signal_at, monkeypatch, tmp_path, whole, batch):
    with monkeypatch.context():
        signal_at(StageModule, "training_step", batch)
        outcome = train(*OPTIONS, f"run_dir={tmp_path / 'run'}")
    monkeypatch.undo()
    assert outcome.code == 128 + signal.SIGUSR1, outcome.err
    check_resumed(train, tmp_path / "run", whole)


def test_dbg(train, signal_at, monkeypatch, tmp_path):
    signal_at(StageModule, "training_step", 1)
    outcome = train(*OPTIONS, f"run_dir={tmp_path / 'run'}")
    print(outcome.out, outcome.err)
    print((tmp_path/"run/metrics.csv").read_text())
    assert 0
