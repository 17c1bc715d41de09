"""The folder of an export: made whole, checked when it is read, and never over something else."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
import torch
from torch import nn

import halut
from halut.cli import main
from halut.errors import HalutError
from halut.export.command import EPILOG
from halut.export.difference import difference
from halut.export.manifest import read_export
from halut.export.targets import TARGETS, load_target


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU())
    net.append(nn.Linear(12, 4))
    halut.replace_(net, halut.Tree(K=4), [torch.randn(64, 8)])
    return net.eval()


@pytest.fixture
def exported(network, tmp_path):
    return halut.export(network, torch.randn(5, 8), to="bundle", folder=tmp_path / "out")


def test_the_manifest_names_versions_files_and_distances(exported):
    manifest = json.loads((exported.folder / "export.json").read_text())
    assert manifest["target"] == "bundle"
    assert {"halut", "torch", "python", "safetensors"} <= manifest["versions"].keys()
    names = {path.name for path in exported.folder.iterdir()} - {"export.json"}
    assert names == set(manifest["files"]) >= {"model.safetensors", "plan.json"}
    assert manifest["difference"] == {
        **{"samples": 5, "largest": 0.0, "close": 1.0, "same_top1": 1.0, "equal": True}
    }


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "plan.json").unlink(), "plan.json is missing"),
        (lambda f: cut(f / "model.safetensors"), "model.safetensors is truncated: "),
        (lambda f: flip(f / "model.safetensors"), "model.safetensors was edited"),
        (lambda f: newer(f / "export.json"), "schema 99, newer than this halut"),
        (lambda f: (f / "export.json").write_text("{"), "export.json: damaged"),
        (lambda f: (f / "export.json").unlink(), "is no export: it has no export.json"),
    ],
)
def test_a_damaged_export_is_refused_by_name(exported, damage, message):
    assert read_export(exported.folder).target == "bundle"
    damage(exported.folder)
    with pytest.raises(HalutError, match=message):
        read_export(exported.folder)


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def newer(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))


def test_a_folder_of_something_else_stays(network, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(HalutError, match=r"not as such a folder: it has no export\.json"):
        halut.export(network, torch.randn(2, 8), to="bundle", folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_export_is_written_anew(exported, network):
    again = halut.export(network, torch.randn(3, 8), to="bundle", folder=exported.folder)
    assert again.manifest["difference"]["samples"] == 3


def test_the_bundle_loads_with_a_factory(exported, network):
    def exact():
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU())
        return net.append(nn.Linear(12, 4))

    x = torch.randn(7, 8)
    assert torch.equal(halut.load(exported.folder, exact)(x), network(x))


def test_unknown_names_are_told_with_the_choices(network, tmp_path):
    x = torch.randn(2, 8)
    with pytest.raises(HalutError, match="unknown target 'bundel'; did you mean bundle"):
        halut.export(network, x, to="bundel", folder=tmp_path / "out")
    with pytest.raises(HalutError, match=r"unknown option bundle\.depth; choose from: "):
        halut.export(network, x, to="bundle", folder=tmp_path / "out", depth=3)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_one_line(network, tmp_path, monkeypatch):
    monkeypatch.setitem(TARGETS, "other", "no_such_package.target")
    with pytest.raises(HalutError, match="the target other needs no_such_package: pip install"):
        halut.export(network, torch.randn(2, 8), to="other", folder=tmp_path / "out")


def test_distances():
    a, b = torch.tensor([[1.0, 2.0], [4.0, 3.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    apart = difference([a], {"y": b}, 2)
    assert (apart.largest, apart.close, apart.same_top1) == (0.25, 0.5, 0.5)
    assert not apart.equal
    assert difference(a[0], a[0], 1).equal
    with pytest.raises(HalutError, match=r"than the network: 7\.50e-01 of the largest"):
        difference(a, b.flip(0), 2)
    with pytest.raises(HalutError, match="shapes otherwise"):
        difference(a, b[:1], 2)
    with pytest.raises(HalutError, match="NaN or infinity elsewhere"):
        difference(a * float("nan"), b, 2)


def test_the_command_exports_a_bundle(network, tmp_path, capsys):
    model = {"name": "resnet8", "num_classes": 10, "in_channels": 1, "options": {"width": 4}}
    net = halut_network(model)
    halut.save(net, tmp_path / "b", model={**model, "input_shape": [1, 8, 8]})
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "b"), "--to", "bundle", "-o", str(out)]) == 0
    assert read_export(out).manifest["difference"]["samples"] == 64
    assert main(["export", str(out), "--to", "bundle", "-o", str(tmp_path)]) == 1
    assert "not as such a folder" in capsys.readouterr().err


def halut_network(model):
    from halut.models.build import build_model

    torch.manual_seed(0)
    net = build_model(model["name"], 10, 1, **model["options"])
    halut.replace_(net, halut.Tree(K=4), [torch.randn(16, 1, 8, 8)])
    return net


def test_help_names_every_target_and_option():
    described = ("plan", "report", "model", "calibration")  # those of Python alone
    for name in TARGETS:
        assert f"\n  {name} " in EPILOG
        for field in fields(load_target(name).Options):
            assert field.name in described or f"{field.name}=" in EPILOG, field.name
