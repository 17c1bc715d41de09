"""evaluate.py: a bundle's figures from the bundle alone, and one message for everything else."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import pytest
import torch

import data as datasets
from halut import surgery
from halut.analysis.cost import exact_cost, replaced_cost
from halut.analysis.errors import layer_errors
from halut.analysis.sensitivity import accuracy
from halut.bundle import load_bundle, save_bundle
from halut.capture import capture
from halut.models.build import build_model
from halut.plan import Plan
from halut.policy import resolve, simple_rules
from halut.sites import find_sites
from halut.training.bundle_data import data_of, settings_of

MODEL = {
    "name": "resnet8",
    "source": "local",
    "options": {"width": 4},
    "num_classes": 10,
    "in_channels": 1,
    "input_shape": [1, 8, 8],
}
SETTINGS = {"mean": [0.3], "std": [0.4], "split_seed": 5, "test_fraction": 0.3}


@pytest.fixture(scope="module")
def digits():
    made = datasets.build("digits", **SETTINGS)
    made.setup()
    return made


@pytest.fixture(scope="module")
def original(digits, tmp_path_factory):
    """A bundle as a run leaves it: two layers of an untrained network replaced."""
    torch.manual_seed(0)
    network = build_model("resnet8", 10, 1, width=4)
    sites, unsupported = find_sites(network, torch.zeros(1, 1, 8, 8))
    rules = simple_rules(sites, only=["stack1.conv1", "stack3.shortcut"])
    plan = resolve(sites, rules, "tree", {"K": 4}, unsupported, MODEL)
    plan = plan.with_stages({entry.site.name: 0 for entry in plan.replaced})
    images = next(digits.calibration_batches(128, seed=0))[0]
    for entry in plan.replaced:
        layer = surgery.build(network, entry)
        layer.observe(capture(network, [entry.site], [images])[entry.site.name])
        layer.fit()
        surgery.swap(network, entry, layer)
    report = {
        "data": {"name": "digits", "settings": settings_of(digits)},
        "final": {"test_accuracy": 12.5, "val_accuracy": 13.0},
        "base": {"test_accuracy": 98.25, "val_accuracy": 97.0},
        "baseline": {"test_accuracy": None},
    }
    folder = tmp_path_factory.mktemp("run")
    save_bundle(folder / "bundle", network, plan, report)
    return folder


@pytest.fixture
def run_folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


@pytest.fixture
def evaluate(capsys, monkeypatch, tmp_path):
    """`halut evaluate ARGS` in this process, from an empty working directory."""
    from hydra.core.global_hydra import GlobalHydra

    from halut.cli import main

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def call(*arguments):
        GlobalHydra.instance().clear()
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["halut"])
        try:
            code = main(["evaluate", "trainer.progress=false", *map(str, arguments)])
        except SystemExit as stop:
            code = stop.code
        written = capsys.readouterr()
        return code, written.out, written.err

    yield call
    GlobalHydra.instance().clear()
    assert list((tmp_path / "elsewhere").iterdir()) == []  # nothing is left where it was called


@pytest.mark.parametrize("where", ["", "bundle"])
def test_the_figures_of_a_bundle(run_folder, digits, evaluate, tmp_path, where):
    code, out, err = evaluate(f"run={run_folder / where}", f"json={tmp_path / 'f.json'}")
    assert (code, err) == (0, "")
    figures = json.loads((tmp_path / "f.json").read_text())
    network, plan, _ = load_bundle(run_folder)
    part = digits.splits["test"]
    images, labels = part.__getitems__(_request(part.indices))
    assert figures["accuracy"] == pytest.approx(accuracy(network, [(images, labels)]))
    assert figures["samples"] == len(labels) == 539  # 30 % of every class
    assert figures["recorded"] == {"accuracy": 12.5, "base": 98.25, "baseline": None}
    assert (figures["split"], figures["data"]) == ("test", "digits")
    assert Plan.from_dict(figures["plan"]) == plan
    assert figures["cost"]["replaced"] == replaced_cost(plan, network)
    assert figures["cost"]["exact"] == exact_cost(plan, build_model("resnet8", 10, 1, width=4))
    assert [layer["name"] for layer in figures["layers"]] == ["stack1.conv1", "stack3.shortcut"]
    for text in ("stack1.conv1", "98.25", f"{figures['accuracy']:.2f} %", "look-ups", "cosine"):
        assert text in out


def _request(indices):
    from data.samples import Request

    return Request(indices)


def test_errors_of_the_layers_over_the_whole_split(run_folder, digits, evaluate, tmp_path):
    json_file = tmp_path / "figures" / "f.json"
    code, _, _ = evaluate(f"run={run_folder}", "split=val", "samples=9999", f"json={json_file}")
    assert code == 0
    network, _, _ = load_bundle(run_folder)
    part = digits.splits["val"]
    images, _ = part.__getitems__(_request(part.indices))
    wanted = layer_errors(network, [images])
    for layer in json.loads(json_file.read_text())["layers"]:
        found = {key: layer[key] for key in ("mae", "mse", "normalised_mse", "cosine")}
        assert found == pytest.approx(wanted[layer["name"]], rel=1e-4)
    assert [path.name for path in json_file.parent.iterdir()] == ["f.json"]


def test_without_samples_no_errors_are_measured(run_folder, evaluate, tmp_path):
    code, _, _ = evaluate(f"run={run_folder}", "samples=0", f"json={tmp_path / 'f.json'}")
    assert code == 0
    layers = json.loads((tmp_path / "f.json").read_text())["layers"]
    assert layers[0] == {"name": "stack1.conv1", "operator": "tree"}


def test_nothing_in_the_bundle_is_changed(run_folder, original, evaluate):
    evaluate(f"run={run_folder}")
    for path in original.rglob("*"):
        if path.is_file():
            assert (run_folder / path.relative_to(original)).read_bytes() == path.read_bytes()
    assert len(list(run_folder.rglob("*"))) == len(list(original.rglob("*")))


def test_the_report_keeps_what_decides_the_samples(digits):
    settings = json.loads(json.dumps(settings_of(digits)))
    assert not {"root", "workers", "download"} & settings.keys()
    again = data_of({"data": {"name": "digits", "settings": settings}}, {}, ())
    assert torch.equal(again.splits["test"].indices, digits.splits["test"].indices)
    assert torch.equal(again.splits["test"][0][0], digits.splits["test"][0][0])
    for field in dataclasses.fields(digits.config):
        if field.name not in ("root", "workers", "download"):
            wanted = getattr(digits.config, field.name)
            assert getattr(again.config, field.name) == wanted


def test_the_command_line_wins_over_the_bundle_and_the_bundle_over_the_defaults():
    report = {"data": {"name": "digits", "settings": SETTINGS | {"eval_batch_size": 64}}}
    chosen = {"name": "digits", "mean": None, "split_seed": 0, "eval_batch_size": 32}
    made = data_of(report, chosen, given=["eval_batch_size"])
    assert (made.config.split_seed, made.config.eval_batch_size) == (5, 32)
    assert made.mean == pytest.approx([0.3])
    assert data_of({}, {"name": "digits", "split_seed": 3}, ()).config.split_seed == 3


def test_statistics_measured_in_training_are_kept():
    @dataclasses.dataclass
    class Config:
        name: str = "speech"
        root: str | None = "/somewhere"
        mean: list[float] | None = None
        std: list[float] | None = None

    class Measured:
        config, mean, std = Config(), [1.5, 2.5], [0.5, 0.25]

    assert settings_of(Measured()) == {"name": "speech", "mean": [1.5, 2.5], "std": [0.5, 0.25]}


def test_command_line_fields_of_the_data(run_folder, evaluate, tmp_path):
    arguments = ["data=digits", "data.test_fraction=0.5", f"json={tmp_path / 'f.json'}"]
    assert evaluate(f"run={run_folder}", *arguments)[0] == 0
    assert json.loads((tmp_path / "f.json").read_text())["samples"] == pytest.approx(898, abs=5)
    assert evaluate(f"run={run_folder}", "+data.test_fraction=0.2", arguments[-1])[0] == 0
    assert json.loads((tmp_path / "f.json").read_text())["samples"] == pytest.approx(359, abs=5)


def spoil(folder, name, content):
    path = folder / "bundle" / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(content(json.loads(path.read_text()))))


def truncated(folder, name, share):
    whole = (folder / "bundle" / name).read_bytes()
    (folder / "bundle" / name).write_bytes(whole[: int(share * len(whole))])


def other(**fields):
    return lambda content: {**content, **fields}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plan.json", None, "has no plan.json"),
        ("plan.json", b"{", "damaged plan"),
        ("plan.json", other(version=99), "plan version 99 cannot be read"),
        ("plan.json", other(model={}), "does not say how to build its network"),
        ("plan.json", other(model={**MODEL, "name": "resnet88"}), "unknown model 'resnet88'"),
        ("plan.json", other(model={**MODEL, "options": {"width": 8}}), "for another network"),
        ("plan.json", other(model={**MODEL, "num_classes": 7}), "is of another network"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("model.safetensors", b"", "truncated or corrupt"),
        ("report.json", None, "does not name its data set; give data=NAME"),
        ("report.json", b"[", "damaged report"),
        ("report.json", b"[]", "damaged report"),
        ("report.json", other(data={"name": "numbers"}), "unknown data set 'numbers'"),
        (
            "report.json",
            other(data={"name": "digits", "settings": {"test_fraction": "half"}}),
            "data=digits: Value 'half'",
        ),
    ],
)
def test_a_spoilt_bundle_is_told_in_one_message(run_folder, evaluate, name, content, message):
    spoil(run_folder, name, content)
    refused(evaluate(f"run={run_folder}"), message)


def refused(outcome, message):
    code, out, err = outcome
    assert code == 1
    assert message in err
    assert "Traceback" not in out + err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_weights(run_folder, evaluate, share):
    truncated(run_folder, "model.safetensors", share)
    refused(evaluate(f"run={run_folder}"), "model.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to evaluate: run=PATH"),
        (["run=/nowhere"], "run=/nowhere: no such folder"),
        (["run=."], "neither a bundle nor a finished run"),
        (["run={run}", "split=train"], "unknown split 'train'; choose one of: test, val"),
        (["run={run}", "samples=-1"], "samples must be at least 0, got -1"),
        (["run={run}", "trainer.devices=2"], "on one device"),
        (["run={run}", "data.workers=many"], "'many'"),
        (["run={run}", "+data.colour=red"], "colour"),
        (["run={run}", "json={run}"], "is a folder; give a file"),
        (["run={run}", "json={run}/bundle/plan.json/x"], "cannot be written"),
        (["run={run}", "data=cifar10"], "data.cifar10:"),
    ],
)
def test_bad_arguments_are_told_in_one_message(run_folder, evaluate, arguments, message):
    code, out, err = evaluate(*(argument.format(run=run_folder) for argument in arguments))
    assert code == 1
    assert message in err
    assert "Traceback" not in out + err


def test_data_of_another_shape(run_folder, evaluate):
    spoil(run_folder, "plan.json", other(model={**MODEL, "input_shape": [1, 9, 9]}))
    refused(evaluate(f"run={run_folder}"), "takes inputs [1, 9, 9]; data=digits gives [1, 8, 8]")


@pytest.mark.parametrize("argument", ["bogus=1", "trainer.colour=red", "samples=many", "data=none"])
def test_keys_and_types_that_do_not_exist_are_refused_when_composed(evaluate, argument):
    code, out, err = evaluate("run=x", argument)
    assert code == 1
    assert argument.split("=")[0].split(".")[-1] in out + err


def test_debug_shows_where_an_error_came_from(evaluate):
    code, _, err = evaluate("run=/nowhere", "debug=traceback")
    assert code == 1
    assert "Traceback" in err
    assert err.strip().endswith("error: run=/nowhere: no such folder")
