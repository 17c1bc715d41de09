"""Two gloo processes on the CPU: identical weights after every stage, one process' accuracy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from halut.replace.ptq import available

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = (
    "model.options.width=8",
    "policy.only=[stack2.conv1,stack3.conv1]",
    "data.batch_size=64",
    "base.epochs=4",
    "schedule.epochs=2",
    "capture.samples=512",
    "recalibrate=4",
    "baseline=false",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
)


def train(run: Path, *more: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train.py", *OPTIONS, f"run_dir={run}", *more]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_processes_hold_the_same_weights_and_match_one(tmp_path):
    cache = f"base.cache={tmp_path / 'cache'}"
    options = (cache, "ptq=[8,4]" if available() else "ptq=none", "schedule.relearn=true")
    train(tmp_path / "one", *options)
    out = train(tmp_path / "two", *options, "trainer.devices=2")
    one, two = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two")
    )
    for index in range(2):
        stage = json.loads((tmp_path / "two" / f"stage_{index:02d}" / "stage.json").read_text())
        assert len(stage["digests"]) == 2
        assert len(set(stage["digests"])) == 1
    assert two["environment"]["processes"] == 2
    assert out.count("everything is in") == 1  # one rank speaks
    assert "relearned" in two["stages"][1]
    # The same base, the same calibration: after the first swap both are the same network.
    first = [report["stages"][0]["val_accuracy_after_swap"] for report in (one, two)]
    assert first[0] == pytest.approx(first[1], abs=0.01)
    assert two["base"]["val_accuracy"] == pytest.approx(one["base"]["val_accuracy"], abs=0.01)
    if available():  # the ranks' calibration samples are shared out, their ranges merged
        notes = [
            json.loads((tmp_path / run / "baseline/ptq.json").read_text()) for run in ("one", "two")
        ]
        assert notes[0]["ranges"] == notes[1]["ranges"]
        for name, accuracy in notes[0]["val_accuracy"].items():
            assert notes[1]["val_accuracy"][name] == pytest.approx(accuracy, abs=0.01)
            figures = [report["ptq"][name]["test_accuracy"] for report in (one, two)]
            assert figures[0] == pytest.approx(figures[1], abs=0.01)
    swapped = [
        load_file(tmp_path / name / "stage_00" / "swapped.safetensors") for name in ("one", "two")
    ]
    for name, tensor in swapped[0].items():
        assert tensor.equal(swapped[1][name]), name  # capture and learning are shared out, exactly


@pytest.mark.slow
def test_sites_learned_apart_are_those_of_one_process(tmp_path):
    """calibrate=original: every rank captures a share of the batches and learns its own sites."""
    apart = ("schedule=all_at_once", "schedule.calibrate=original", "schedule.epochs=0")
    more = ("base.epochs=0", "base.cache=null", "capture.rows=500", "halut=pq", "halut.K=8", *apart)
    for name, devices in (("one", 1), ("two", 2)):
        train(tmp_path / name, *more, f"trainer.devices={devices}")
    one, two = (
        load_file(tmp_path / name / "stage_00/weights.safetensors") for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    assert all(one[name].equal(two[name]) for name in one)


@pytest.mark.slow
def test_an_error_on_every_rank_ends_the_command(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train.py", *OPTIONS, "halut.C=0", "trainer.devices=2"]
    done = subprocess.run(
        [*command, f"run_dir={tmp_path / 'run'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode != 0
    assert done.stderr.count("halut.C must be at least 1, got 0") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
