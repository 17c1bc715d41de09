"""The base network: trained once, cached by what decides its weights, or read from a file."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from tests.training.measured_accuracy import measured, reported

QUICK = (
    "debug=smoke",
    "policy.only=[stack3.conv2]",
    "schedule.epochs=0",
    "base.epochs=1",
    "trainer.limit_train_batches=2",
)


def origin(run):
    """Where a run says its base weights come from."""
    return json.loads((run / "report.json").read_text())["base"]["origin"]


def test_trained_once_and_cached_by_hash(train, tmp_path):
    cache = f"base.cache={tmp_path / 'cache'}"
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    assert train(*QUICK, cache, f"run_dir={first}").code == 0
    assert train(*QUICK, cache, f"run_dir={second}", "halut.K=4").code == 0
    assert train(*QUICK, cache, f"run_dir={other}", "base.lr=0.01").code == 0
    assert origin(first) == "trained for 1 epoch"
    assert origin(second).startswith("trained earlier")
    assert origin(other) == "trained for 1 epoch"
    weights = [load_file(run / "base" / "weights.safetensors") for run in (first, second, other)]
    assert all(tensor.equal(weights[1][name]) for name, tensor in weights[0].items())
    assert not all(tensor.equal(weights[2][name]) for name, tensor in weights[0].items())


def test_weights_of_a_file_are_taken_as_they_are(train, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert train(*QUICK, f"run_dir={first}").code == 0
    file = first / "base" / "weights.safetensors"
    quick = QUICK[:3]  # nothing is trained
    assert train(*quick, f"run_dir={second}", f"model.weights={file}", "seed=5").code == 0
    assert origin(second) == f"file {file}"
    one, two = load_file(file), load_file(second / "base" / "weights.safetensors")
    assert all(tensor.equal(two[name]) for name, tensor in one.items())


def test_the_report_has_every_field(train, tmp_path):
    run = tmp_path / "run"
    quick = [option for option in QUICK if option != "schedule.epochs=0"]
    assert train(*quick, "trainer.limit_test_batches=null", f"run_dir={run}").code == 0
    report = json.loads((run / "report.json").read_text())
    assert report["schema"] == 1
    assert {"val_accuracy", "test_accuracy"} <= report["base"].keys()
    assert reported(run) == pytest.approx(measured(run))
    assert reported(run).keys() == {"base", "baseline", "final"}
    stage = {
        *("sites", "val_accuracy_before", "val_accuracy_after_swap"),
        *("val_accuracy_after_training", "epochs", "seconds"),
    }
    assert all(stage <= entry.keys() for entry in report["stages"])
    site = {"name", "operator", "options", "normalized_mse", "code_perplexity"}
    assert all(site <= entry.keys() for entry in report["sites"])
    keys = {"macs", "encode_compares", "encode_macs", "lookups", "adds", "table_bytes"}
    assert all(keys <= report["cost"][kind].keys() for kind in ("exact", "replaced"))
    assert report["cost"]["replaced"]["macs"] < report["cost"]["exact"]["macs"]
    assert {"torch", "commit", "device", "kernels"} <= report["environment"].keys()
    assert report["seed"] == 0
    assert report["command"].startswith("python train.py debug=smoke")
    left = {path.name for path in run.iterdir()}
    expected = {"config.yaml", "plan.json", "metrics.csv", "stage_00", "bundle", "report.json"}
    assert expected <= left
    bundle = {path.name for path in (run / "bundle").iterdir()}
    assert bundle == {"model.safetensors", "plan.json", "report.json", "README.md"}
