"""A killed run continues in the middle of a stage and ends with the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = (
    "model.options.width=8",
    "data.train_samples=512",
    "data.batch_size=32",
    "policy.only=[stack2.*,stack3.conv1]",
    "base.epochs=1",
    "schedule.epochs=3",
    "capture.samples=128",
    "capture.rows=1024",
    "recalibrate=2",
    "baseline=false",
    "trainer.threads=1",
    "trainer.checkpoint_every=7",
    "trainer.accelerator=cpu",
)


def start(run: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "train.py", *OPTIONS, f"run_dir={run}", *more]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill_when(process: subprocess.Popen[str], path: Path, seconds: float = 300) -> None:
    """SIGKILL the moment `path` is there."""
    until = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def figures(run: Path) -> list[tuple[str, ...]]:
    """metrics.csv without the first line."""
    return [tuple(line.split(",")) for line in (run / "metrics.csv").read_text().splitlines()[1:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("trainer.ema=0.9", "data.workers=1"),
        ("halut.noise=0.1", "halut.quantize_from=0.5", "schedule.encoders_first=1"),
        ("optim.optimizer=lamb", "optim.schedule=OneCycleLR"),
        ("optim.optimizer=NAdam", "optim.schedule=step", "+optim.schedule_options={decay_t: 1}"),
    ],
    ids=["plain", "ema", "noise", "torch schedule", "timm schedule"],
)
def test_killed_in_stage_2_ends_with_the_same_weights(tmp_path, more):
    cache = f"base.cache={tmp_path / 'cache'}"
    warm = start(tmp_path / "warm", cache, *more)  # fills the cache: the runs' steps compare
    assert warm.wait() == 0
    whole = start(tmp_path / "whole", cache, *more)
    out = whole.communicate()[0]
    assert whole.returncode == 0, out

    run = tmp_path / "killed"
    kill_when(start(run, cache, *more), run / "stage_02" / "last.ckpt")
    assert (run / "stage_01" / "stage.json").exists()
    assert not (run / "stage_02" / "stage.json").exists()
    resumed = start(run, cache, *more)
    out = resumed.communicate()[0]
    assert resumed.returncode == 0, out
    assert "stage_02: continuing after step" in out
    assert "stage_01: replacing" not in out

    expected = load_file(tmp_path / "whole" / "bundle" / "model.safetensors")
    actual = load_file(run / "bundle" / "model.safetensors")
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert tensor.equal(actual[name]), name
    reports = [json.loads((r / "report.json").read_text()) for r in (tmp_path / "whole", run)]
    assert reports[0]["final"] == reports[1]["final"]
    keys = ("val_accuracy_before", "val_accuracy_after_swap", "val_accuracy_after_training")
    for a, b in zip(reports[0]["stages"], reports[1]["stages"], strict=True):
        assert [a[key] for key in keys] == [b[key] for key in keys]
    # No step is logged twice, none is lost.
    assert sorted(figures(run)) == sorted(figures(tmp_path / "whole"))


@pytest.mark.slow
def test_killed_between_swap_and_training(tmp_path):
    run = tmp_path / "run"
    cache = f"base.cache={tmp_path / 'cache'}"
    kill_when(start(run, cache), run / "stage_01" / "swap.json")
    resumed = start(run, cache)
    out = resumed.communicate()[0]
    assert resumed.returncode == 0, out
    assert "stage_00: replacing" not in out
    assert json.loads((run / "report.json").read_text())["stages"][1]["epochs"] == 3


@pytest.mark.slow
def test_sigterm_reports_one_error_and_the_run_resumes(tmp_path):
    run = tmp_path / "run"
    process = start(run, f"base.cache={tmp_path / 'cache'}")
    while not (run / "stage_00" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.terminate()
    out = process.communicate()[0]
    assert process.returncode == 143, out
    assert "ended by SIGTERM; the same command with the same run_dir continues" in out
    assert not (run / "report.json").exists()


@pytest.mark.slow
def test_a_finished_run_is_shown_again_and_not_repeated(train, tmp_path):
    options = ("debug=smoke", "policy.only=[stack3.conv2]", f"run_dir={tmp_path / 'run'}")
    assert train(*options).code == 0
    before = (tmp_path / "run" / "report.json").read_bytes()
    again = train(*options)
    assert again.code == 0
    assert "finished already" in again.out
    assert "after swap" in again.out
    assert (tmp_path / "run" / "report.json").read_bytes() == before
