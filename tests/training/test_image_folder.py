"""`python train.py data=image_folder data.root=DIR`: pictures of one's own, from end to end."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from halut.models.build import build_model
from halut.models.config import ModelConfig
from halut.models.weights import save_weights
from halut.training.pretrained import new_classifier
from tests.datasets.generate import write_image_folder

QUICK = (
    "data=image_folder",
    "data.workers=0",
    "model.options.width=8",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "policy.only=[stack3.conv2]",
    "ptq=none",
    "capture.samples=64",
    "recalibrate=1",
)
SMOKE = (*QUICK, "debug=smoke", "debug.traceback=false", "baseline=false")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """120 colored shapes of three classes."""
    return write_image_folder(tmp_path_factory.mktemp("pictures"), 40)


@pytest.fixture
def evaluate(capsys, monkeypatch):
    """`halut evaluate ARGS` in this process: exit code, output, errors."""
    from hydra.core.global_hydra import GlobalHydra

    from halut.cli import main

    def call(*arguments):
        GlobalHydra.instance().clear()
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["halut"])
        try:
            code = main(["evaluate", "trainer.enable_progress_bar=false", "latency=0", *arguments])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    yield call
    GlobalHydra.instance().clear()


def report(run: Path):
    return json.loads((run / "report.json").read_text())


def failed(outcome, *words: str) -> None:
    """One line of error that holds the words."""
    assert outcome.code == 1
    assert "Traceback" not in outcome.err + outcome.out
    [line] = outcome.err.strip().splitlines()
    for word in words:
        assert word in line, line


@pytest.mark.slow
def test_learns_far_above_chance_and_is_evaluated_alike(train, evaluate, pictures, tmp_path):
    run = tmp_path / "run"
    options = ("base.epochs=20", "base.cache=null", "baseline=false", f"run_dir={run}")
    outcome = train(*QUICK, *options, f"data.root={pictures}")
    assert outcome.code == 0, outcome.err
    assert "3 classes in" in outcome.out
    assert "resized to" in outcome.out
    results = report(run)
    assert results["base"]["test_accuracy"] > 80  # chance: 33
    assert results["final"]["test_accuracy"] > 80
    assert results["data"]["classes"] == ["cross", "disc", "stripes"]
    assert results["data"]["samples"] == {"train": 78, "val": 18, "test": 24}
    recorded = json.loads((run / "data.json").read_text())
    assert recorded["digests"] == results["data"]["digests"]
    assert sum(map(len, recorded["files"].values())) == 120
    code, out, err = evaluate(f"run={run}", f"data.root={pictures}", f"json={tmp_path / 'f'}")
    assert code == 0, err
    figures = json.loads((tmp_path / "f").read_text())
    assert figures["accuracy"] == pytest.approx(results["final"]["test_accuracy"], abs=1e-4)
    assert "not the one held out" not in out


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pictures):
    """Where `smoke` left a run of a few steps, by being called once."""
    return tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def smoke(train, finished, pictures):
    """A finished run of a few steps."""
    if not (finished / "report.json").exists():
        outcome = train(*SMOKE, f"data.root={pictures}", f"run_dir={finished}")
        assert outcome.code == 0, outcome.err
    return finished


def test_evaluation_knows_the_classes_and_the_split(smoke, evaluate, tmp_path):
    other = write_image_folder(tmp_path / "other", 40, ("cross", "disc"))
    (other / "disc").rename(other / "round")
    write_image_folder(other, 40, ("stripes",))
    code, _, err = evaluate(f"run={smoke}", f"data.root={other}")
    assert code == 1
    assert "class 1 is 'round'; the bundle's network learned 'disc' there" in err
    more = write_image_folder(tmp_path / "more", 41)
    code, out, err = evaluate(f"run={smoke}", f"data.root={more}", "samples=0")
    assert code == 0, err
    assert "the test split is not the one held out when the network was trained" in out


def test_evaluation_reads_the_pictures_where_the_run_did(smoke, evaluate, pictures, tmp_path):
    for path in (smoke, smoke / "bundle"):
        code, out, err = evaluate(f"run={path}", "samples=0")
        assert code == 0, err
        assert "not the one held out" not in out
    alone = shutil.copytree(smoke / "bundle", tmp_path / "alone" / "bundle")
    (alone.parent / "config.json").write_text('{"data": {"root": []}}')  # some other program's
    code, _, err = evaluate(f"run={alone}", "samples=0")
    assert code == 1
    assert "no folder of class folders found" in err


def test_a_run_is_not_continued_with_other_pictures(train, smoke, tmp_path):
    (smoke / "report.json").rename(tmp_path / "report.json")
    more = write_image_folder(tmp_path / "more", 41)
    outcome = train(*SMOKE, f"data.root={more}", f"run_dir={smoke}")
    (tmp_path / "report.json").rename(smoke / "report.json")
    failed(outcome, "was begun with other samples", "another run_dir")


def test_the_cached_network_of_another_folder_is_not_taken(train, pictures, tmp_path):
    cache = (f"base.cache={tmp_path / 'cache'}", "base.epochs=1", "schedule.epochs=0")
    origins = []
    for name, per_class in (("one", 30), ("two", 31), ("one", 30)):
        root = write_image_folder(tmp_path / name, per_class)
        run = tmp_path / f"run{len(origins)}"
        outcome = train(*SMOKE, *cache, f"data.root={root}", f"run_dir={run}")
        assert outcome.code == 0, outcome.err
        origins.append(report(run)["base"]["origin"].split(" (")[0])
    assert origins == ["trained for 1 epoch", "trained for 1 epoch", "trained earlier"]


def test_a_bad_test_picture_ends_the_run_before_it_trains(train, tmp_path):
    root = write_image_folder(tmp_path / "pictures", 12)
    split = ("data.eval_batch_size=64", f"data.root={root}")
    assert train(*SMOKE, *split, f"run_dir={tmp_path / 'first'}").code == 0
    files = json.loads((tmp_path / "first/data.json").read_text())["files"]["test"]
    bad = next(root / name for name in files if name.endswith(".png"))
    raw = bytearray(bad.read_bytes())
    raw[60:90] = bytes(30)  # its header and its end are whole
    bad.write_bytes(raw)
    outcome = train(*SMOKE, *split, f"run_dir={tmp_path / 'second'}", "base.epochs=1")
    failed(outcome, f"data.image_folder: cannot read {bad}")
    assert "training the exact network" not in outcome.out
    assert not (tmp_path / "second").exists()  # once it is mended, the same command begins


def test_weights_that_score_near_chance_are_warned_of(train, pictures, tmp_path):
    network = build_model("resnet8", 3, 3, width=8)
    with torch.no_grad():
        network.get_parameter("fc.weight").zero_()
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, network.state_dict())
    options = (f"model.weights={weights}", f"data.root={pictures}", f"run_dir={tmp_path / 'run'}")
    outcome = train(*SMOKE, *options)
    assert outcome.code == 0, outcome.err
    lines = [line for line in outcome.out.splitlines() if "the given weights score" in line]
    assert len(lines) == 1
    assert "% on 8 validation samples, and guessing" in lines[0]  # two batches of four


def test_a_pretrained_network_of_other_classes_is_trained_first():
    for source in ("timm", "torchvision"):
        model = ModelConfig("resnet18", source=source, pretrained=True)
        assert new_classifier(model, 3)
        assert not new_classifier(model, 1000)
    assert not new_classifier(ModelConfig("resnet18"), 3)
    assert not new_classifier(ModelConfig("resnet18", pretrained=True, weights="file"), 3)
