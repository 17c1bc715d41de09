"""Two gloo processes train q, k and v with one encoder: the same weights, and one process' own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.training.digit_attention import NAMES

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = (
    "model=any",
    "model.name=digit_attention",
    "policy.share=true",
    f"policy.only=[{','.join(NAMES)}]",
    "halut.K=8",
    "data.batch_size=64",
    "base.epochs=1",
    "base.cache=null",
    "schedule=all_at_once",
    "schedule.epochs=1",
    "schedule.select=last",
    "capture.samples=512",
    "recalibrate=0",
    "baseline=false",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
)


def train(run: Path, processes: int) -> None:
    """One run by as many ranks, started from outside as a cluster would."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("digit_attention.py")), *OPTIONS]
    command += [f"run_dir={run}", f"trainer.devices={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ranks = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        own |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        options = {
            "cwd": ROOT,
            "text": True,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
        }
        variables = {**environment, **(own if processes > 1 else {})}
        ranks.append(subprocess.Popen(command, env=variables, **options))
    outputs = [rank.communicate(timeout=600)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * processes, outputs


@pytest.mark.slow
def test_both_ranks_hold_the_same_weights_and_match_one(tmp_path):
    for name, processes in (("one", 1), ("two", 2)):
        train(tmp_path / name, processes)
    stage = json.loads((tmp_path / "two" / "stage_00" / "stage.json").read_text())
    assert len(stage["digests"]) == 2
    assert len(set(stage["digests"])) == 1
    one, two = (
        {
            when: load_file(tmp_path / name / "stage_00" / f"{when}.safetensors")
            for when in ("swapped", "weights")
        }
        for name in ("one", "two")
    )
    for kind in ("encoder.thresholds", "tau"):
        assert all(two["weights"][f"q.{kind}"].equal(two["weights"][f"{n}.{kind}"]) for n in NAMES)
    trained = 0
    for name, tensor in two["weights"].items():
        if name == "k.bias":
            continue  # softmax does not see it: its gradient is what rounding leaves
        moved = float((one["weights"][name] - one["swapped"][name]).double().norm())
        apart = float((one["weights"][name] - tensor).double().norm())
        assert apart <= 1e-3 * moved + 1e-5, name
        trained += moved > 1e-3
    assert trained >= 4 * len(NAMES)  # tables, thresholds, temperature and most biases
