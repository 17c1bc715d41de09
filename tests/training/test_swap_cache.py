"""schedule.cache: what a stage learned is taken from there by stages that would learn the same."""

from __future__ import annotations

import pytest

from halut.training import stage
from tests.training.smoke_run import runner


@pytest.fixture
def run(train, tmp_path):
    cached = f"schedule.cache={tmp_path / 'cache'}"
    go = runner(train, tmp_path)
    return lambda name, *arguments: go(name, cached, *arguments)


def kept(folder):
    return {path.parent.name for path in (folder / "cache").rglob("swapped.safetensors")}


def test_equal_stages_learn_once(run, tmp_path, monkeypatch):
    first = run("first")
    assert len(kept(tmp_path)) == 2  # a stage each
    monkeypatch.delattr(stage, "learn")
    again = run("again")
    assert len(kept(tmp_path)) == 2
    for name in ("stage_00/swapped", "stage_01/swapped"):
        one, two = (each.tensors(name) for each in (first, again))
        assert one.keys() == two.keys()
        assert all(tensor.equal(two[name]) for name, tensor in one.items())
    for key in ("val_accuracy_after_swap", "val_accuracy_after_training"):
        assert [s[key] for s in first.report["stages"]] == [s[key] for s in again.report["stages"]]


@pytest.mark.parametrize(
    "other",
    [
        ["halut.noise=0.5"],
        ["halut.quantize_from=0.5", "halut.estimator=identity"],
        ["optim.lr.table=0.5"],
        ["loss.features=1"],
        ["data.batch_size=8", "recalibrate=4"],
    ],
)
def test_training_does_not_count(run, tmp_path, other):
    run("first", "schedule=all_at_once", "recalibrate=2")
    run("other", "schedule=all_at_once", "recalibrate=2", *other)
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize(
    "other",
    [
        "halut.K=8",
        "halut.output_metric=false",
        "schedule.calibrate=replaced",
        "schedule.refit=false",
        "capture.samples=96",
        "seed=1",
        "recalibrate=3",
        "data.val_samples=100",
        "model.options.width=16",
    ],
)
def test_what_decides_it_counts(run, tmp_path, other):
    run("first", "schedule=all_at_once", "schedule.epochs=0")
    run("other", "schedule=all_at_once", "schedule.epochs=0", other)
    assert len(kept(tmp_path)) == 2


def test_a_damaged_file_is_named(run, tmp_path):
    run("first", "schedule=all_at_once")
    (file,) = (tmp_path / "cache").rglob("swapped.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(AssertionError, match=str(file)):
        run("other", "schedule=all_at_once")
