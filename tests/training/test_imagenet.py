"""`python train.py model=resnet50 halut.C=32`: without ImageNet, and on a folder in its layout."""

from __future__ import annotations

import json
import os

import pytest
import timm
from safetensors.torch import load_file

from halut.errors import HalutError
from halut.models.config import ModelConfig
from halut.training.pretrained import preprocessing, with_pretrained_preprocessing
from tests.datasets.generate import write_imagenet
from tests.training.measured_accuracy import measured, reported

COMMAND = ("model=resnet50", "halut.C=32")


@pytest.fixture
def unreachable(monkeypatch):
    """Any attempt to build a network or fetch weights fails the test."""

    def attempt(*args, **kwargs):
        raise AssertionError("asked for a network before the data was checked")

    monkeypatch.setattr(timm, "create_model", attempt)


# -- without ImageNet -----------------------------------------------------------------------------


def test_without_imagenet_one_error_names_what_where_and_how(
    train, tmp_path, monkeypatch, unreachable
):
    monkeypatch.chdir(tmp_path)
    outcome = train(*COMMAND)
    assert outcome.code == 1
    assert "Traceback" not in outcome.err + outcome.out
    message = " ".join(outcome.err.split())
    assert message.count("error:") == 1
    for words in (
        "data.imagenet: no folder with train/ and val/ found",
        "neither data.root nor HALUT_DATA is set",
        "train/WNID/*.JPEG (WNID as n01440764) and val/WNID/*.JPEG",
        "devkit",
        "image-net.org",
        "give data.root=PATH or set HALUT_DATA",
    ):
        assert words in message, words
    assert os.listdir(tmp_path) == []  # no run folder, no log, no weights


def test_it_names_every_place_it_looked_in(train, tmp_path, monkeypatch, unreachable):
    monkeypatch.setenv("HALUT_DATA", str(tmp_path / "shared"))
    run = tmp_path / "run"
    outcome = train(*COMMAND, f"data.root={tmp_path / 'mine'}", f"run_dir={run}")
    assert outcome.code == 1
    message = "".join(outcome.err.split())
    for place in ("mine", "mine/imagenet", "mine/ILSVRC2012", "shared", "shared/imagenet"):
        assert f"{tmp_path / place}," in message or f"{tmp_path / place}." in message, place
    assert not run.exists()


# -- with a folder in its layout ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["folders", "devkit"])
def test_the_users_command_runs_on_a_folder_in_imagenets_layout(train, tmp_path, layout):
    write_imagenet(tmp_path / "data", layout=layout)
    run = tmp_path / "run"
    few = "policy.only=[layer1.0.conv1,layer1.0.conv2,layer4.2.conv3]"
    small = ("debug=smoke", "debug.traceback=false", "data.image_size=64", "data.val_fraction=0.25")
    sizes = ("schedule.per_stage=3", "trainer.accelerator=cpu")
    outcome = train(
        *COMMAND, *small, *sizes, few, f"data.root={tmp_path / 'data'}", f"run_dir={run}"
    )
    assert outcome.code == 0, outcome.err
    report = json.loads((run / "report.json").read_text())
    sites = ["layer1.0.conv1", "layer1.0.conv2", "layer4.2.conv3"]
    assert [stage["sites"] for stage in report["stages"]] == [sites]
    assert [site["name"] for site in report["sites"]] == sites
    for site in report["sites"]:
        assert (site["operator"], site["options"]["C"], site["options"]["K"]) == ("tree", 32, 16)
        assert site["normalized_mse"] is not None
        assert 1 <= site["code_perplexity"] <= 16
    assert reported(run) == pytest.approx(measured(run))
    assert report["base"]["origin"] == "random"
    assert report["baseline"]["epochs"] == 1
    assert report["data"]["samples"] == {"train": 27, "val": 9, "test": 12}
    assert (report["model"]["num_classes"], report["model"]["pretrained"]) == (3, None)
    # 64 images wide: 16x16 positions in layer1, 2x2 in layer4.
    gone = 256 * 64 * 64 + 256 * 576 * 64 + 4 * 512 * 2048
    cost = report["cost"]
    assert cost["exact"]["macs"] - cost["replaced"]["macs"] == gone
    assert cost["replaced"]["lookups"] == 32 * (256 * 64 + 256 * 64 + 4 * 2048)
    assert cost["replaced"]["table_bytes"] == 32 * 16 * (64 + 64 + 2048)
    assert {"seed", "command", "environment", "schema"} <= report.keys()
    weights = load_file(run / "bundle" / "model.safetensors")
    assert weights["layer4.2.conv3.lut"].shape == (1, 32, 16, 2048)
    for name in ("config.yaml", "plan.json", "metrics.csv", "stage_00/stage.json"):
        assert (run / name).exists()


def test_pretrained_weights_out_of_reach_name_the_ways_without(train, tmp_path, monkeypatch):
    write_imagenet(tmp_path / "data")

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", offline)
    run = tmp_path / "run"
    outcome = train(
        *COMMAND, f"data.root={tmp_path / 'data'}", "data.val_fraction=0.25", f"run_dir={run}"
    )
    assert outcome.code == 1
    message = " ".join(outcome.err.split())
    for words in ("resnet50", "model.weights=PATH", "model.pretrained=false"):
        assert words in message
    assert not run.exists()


# -- what pretrained weights ask of the images ----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("resnet50", "timm", (224, "bicubic", 0.95)),
        ("resnet50.tv_in1k", "auto", (224, "bilinear", 0.875)),
        ("deit_tiny_patch16_224", "timm", (224, "bicubic", 0.9)),
        ("efficientnet_b3", "timm", (288, "bicubic", 0.875)),
        ("resnet18", "torchvision", (224, "bilinear", 0.875)),
    ],
)
def test_preprocessing_is_the_published_one(name, source, expected, unreachable):
    actual = preprocessing(ModelConfig(name, source=source, pretrained=True))
    keys = ("image_size", "interpolation", "crop_pct")
    assert tuple(actual[key] for key in keys) == pytest.approx(expected, abs=1e-3)
    assert actual["mean"] == [0.485, 0.456, 0.406]


def test_only_null_options_are_filled_in_and_only_for_pretrained_weights():
    fields = {"batch_size": 8, "image_size": None, "mean": None, "crop_pct": 1.0, "auto": None}
    model = ModelConfig("tf_efficientnet_lite0", pretrained=True)
    assert with_pretrained_preprocessing(fields, model) == {
        "batch_size": 8,
        "image_size": 224,
        "mean": [0.5, 0.5, 0.5],
        "crop_pct": 1.0,
        "auto": None,
    }
    for other in (ModelConfig("resnet50"), ModelConfig("resnet8", pretrained=True)):
        assert with_pretrained_preprocessing(fields, other) == fields
    with pytest.raises(HalutError, match="unknown model 'resnet7'"):
        with_pretrained_preprocessing(fields, ModelConfig("resnet7", pretrained=True))
