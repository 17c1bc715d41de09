"""Whole networks as ONNX: any inputs, any layers, and files no larger than the bundle."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import halut
from halut.errors import HalutError
from halut.export.onnx.runtime import run
from halut.export.onnx.target import convert
from halut.sites.calls import Call
from tests.export.test_onnx_tables import TOLERANCE, gap
from tests.inference.networks import network_of, replaced
from tests.layers.test_own_encoder import MeanConfig, registered  # noqa: F401


def folder_bytes(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("operator", ["tree", "pq"])
@pytest.mark.parametrize("name", ["resnet8", "ds_cnn", "tiny_vit"])
def test_whole_networks(name, operator, tmp_path):
    network, x = network_of(name)
    replaced(network, x, operator)
    halut.save(network, tmp_path / "bundle")
    out = tmp_path / "out"
    assert gap(network, x, out) <= TOLERANCE
    assert folder_bytes(out) <= 1.1 * folder_bytes(tmp_path / "bundle")


def test_codecs_of_a_whole_network_and_its_attention(tmp_path):
    network, x = network_of("tiny_vit")
    rules = [halut.Rule(kind="attention", operator="integer")]
    halut.replace_(network, halut.Integer(), [x], rules=rules)
    assert gap(network.eval(), x, tmp_path / "out") <= TOLERANCE


class Two(nn.Module):
    """Two inputs, one by keyword, and two answers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 12), nn.Linear(12, 4)
        self.middle = nn.Linear(12, 12)

    def forward(self, x, *, gate):
        y = self.middle(self.first(x)) * gate
        return {"logits": self.last(y), "features": y}


def test_several_inputs_and_answers(tmp_path):
    torch.manual_seed(0)
    network, x, gate = Two(), torch.randn(20, 8), torch.rand(20, 12)
    halut.replace_(network, halut.Tree(K=8), [{"x": x, "gate": gate}])
    exported = halut.export(network, {"x": x, "gate": gate}, to="onnx", folder=tmp_path / "out")
    assert exported.manifest["difference"]["largest"] <= TOLERANCE
    one = Call(x[:1], gate=gate[:1])
    assert [len(y) for y in run(exported.folder / "model.onnx", one)] == [1, 1]


def test_codes_of_an_encoder_of_ones_own(registered, tmp_path):  # noqa: F811
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, groups=2))
    network += nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(32, 12), nn.Linear(12, 3))
    x = torch.randn(32, 2, 8, 8)
    halut.replace_(network, MeanConfig(name="mean_of_block", K=5), [x])
    assert gap(network.eval(), x, tmp_path / "out") <= TOLERANCE


def test_averages_are_refused_by_name():
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    x = torch.randn(64, 8)
    halut.replace_(network, halut.Tree(K=4, C=2, average=2), [x])
    with pytest.raises(HalutError, match=r"^1 adds by halut\.average"):
        convert(network, Call(x))


class Branching(nn.Module):
    """Code that no tracer follows."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        y = self.middle(self.first(x))
        return self.last(y if float(y.sum()) > 0 else -y)


def test_what_torch_cannot_export_is_one_line():
    network, x = Branching(), torch.randn(64, 8)
    halut.replace_(network, halut.Tree(K=4), [x])
    with pytest.raises(HalutError, match=r"torch\.onnx cannot export Branching: .*data-dependent"):
        convert(network, Call(x))


def test_options_are_checked(tmp_path):
    network, x = network_of("ds_cnn")
    with pytest.raises(HalutError, match=r"onnx\.opset must be in 17\.\.24, got 12"):
        halut.export(network, x, to="onnx", folder=tmp_path / "out", opset=12)
    with pytest.raises(HalutError, match=r"unknown onnx\.codecs 'fp8'"):
        halut.export(network, x, to="onnx", folder=tmp_path / "out", codecs="fp8")
