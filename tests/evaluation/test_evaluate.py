"""evaluate.py: a bundle's figures from the bundle alone, and one message for everything else."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from halut.analysis import sensitivity
from halut.analysis.layer_errors import METRICS, layer_errors
from halut.analysis.network_cost import exact_cost, replaced_cost
from halut.bundle import load_bundle
from halut.models.build import build_model
from halut.sites.plan import Plan
from halut.training.bundle_data import data_of, settings_of
from tests.docs.pages import blocks
from tests.evaluation.digits_bundle import SETTINGS


@pytest.mark.parametrize("where", ["", "bundle"])
def test_the_figures_of_a_bundle(run_folder, digits, evaluate, tmp_path, where):
    code, out, err = evaluate(f"run={run_folder / where}", f"json={tmp_path / 'f.json'}")
    assert (code, err) == (0, "")
    figures = json.loads((tmp_path / "f.json").read_text())
    network, plan, _ = load_bundle(run_folder)
    part = digits.splits["test"]
    images, labels = part.__getitems__(_request(part.indices))
    measured = sensitivity.evaluate(network, [(images, labels)])
    assert figures["accuracy"] == pytest.approx(measured["accuracy"])
    assert figures["samples"] == len(labels) == 539  # 30 % of every class
    assert figures["recorded"] == {
        "samples": None,
        "accuracy": 12.5,
        "base": 98.25,
        "baseline": None,
    }
    assert (figures["split"], figures["data"]) == ("test", "digits")
    assert Plan.from_dict(figures["plan"]) == plan
    assert figures["cost"]["replaced"] == replaced_cost(plan, network)
    assert figures["cost"]["exact"] == exact_cost(plan, build_model("resnet8", 10, 1, width=4))
    assert [layer["name"] for layer in figures["layers"]] == ["stack1.conv1", "stack3.shortcut"]
    for text in ("stack1.conv1", "98.25", f"{figures['accuracy']:.2f} %", "look-ups", "cosine"):
        assert text in out


def test_each_accuracy_reports_its_number_of_samples(run_folder, evaluate):
    path = run_folder / "bundle" / "report.json"
    report = json.loads(path.read_text())
    options = (f"run={run_folder}", "samples=0", "latency=0", "data.eval_batch_size=16")
    code, out, _ = evaluate(*options)
    assert code == 0
    assert "of 539 samples of digits (recorded: accuracy 12.50 %, base 98.25 % of samples not" in (
        " ".join(out.split())
    )
    report["data"]["evaluated"] = {"val": 30, "test": 32}
    path.write_text(json.dumps(report))
    out = " ".join(evaluate(*options, "trainer.limit_test_batches=3")[1].split())
    assert "% of 48 samples of digits (recorded: accuracy 12.50 %, base 98.25 % of 32 sam" in out


def test_the_prepared_network_is_timed_beside_the_exact_one(run_folder, evaluate, tmp_path):
    arguments = [f"run={run_folder}", "samples=0", f"json={tmp_path / 'f.json'}"]
    code, out, _ = evaluate(*arguments, "latency=3")
    report = json.loads((tmp_path / "f.json").read_text())["latency"]
    assert code == 0
    assert report["batch"] == 3
    assert report["ms"].keys() == {"exact", "prepared"}
    assert "latency of 3 on the CPU" in out
    exact, prepared = (f"{report['ms'][name]:.3g} ms" for name in ("exact", "prepared"))
    assert f"exact {exact}, prepared {prepared}," in " ".join(out.split())
    code, out, _ = evaluate(*arguments, "latency=0")
    assert json.loads((tmp_path / "f.json").read_text())["latency"] is None
    assert (code, "latency" in out) == (0, False)


def test_the_network_for_inference_of_the_page_on_deployment(run_folder):
    (block,) = blocks("python", "docs/how-to/deployment.md")
    example = block.text.replace("runs/mine", str(run_folder))
    space = {}
    exec(compile(example, block.page, "exec"), space)
    with torch.no_grad():
        expected = space["network"](space["x"])
    assert torch.allclose(space["logits"], expected, rtol=1e-3, atol=1e-4)
    assert torch.allclose(space["program"].module()(space["x"]), expected, rtol=1e-3, atol=1e-4)


def _request(indices):
    from halut.data.samples import Request

    return Request(indices)


def test_errors_of_the_layers_over_the_whole_split(run_folder, digits, evaluate, tmp_path):
    json_file = tmp_path / "figures" / "f.json"
    code, _, _ = evaluate(f"run={run_folder}", "split=val", "samples=9999", f"json={json_file}")
    assert code == 0
    network, _, _ = load_bundle(run_folder)
    part = digits.splits["val"]
    images, _ = part.__getitems__(_request(part.indices))
    expected = layer_errors(network, [images])
    for layer in json.loads(json_file.read_text())["layers"]:
        figures = {key: layer[key] for key in METRICS}
        assert figures == pytest.approx(expected[layer["name"]], rel=1e-4)
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
            expected = getattr(digits.config, field.name)
            assert getattr(again.config, field.name) == expected


def test_the_command_line_wins_over_the_bundle_and_the_bundle_over_the_defaults():
    report = {"data": {"name": "digits", "settings": SETTINGS | {"eval_batch_size": 64}}}
    data_options = {"name": "digits", "mean": None, "split_seed": 0, "eval_batch_size": 32}
    made = data_of(report, data_options, keys=["eval_batch_size"])
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
