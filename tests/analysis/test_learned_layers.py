"""Layers that were learned alone come from their files as they were learned, and no others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import halut
from halut.analysis.assembly import Assembly
from halut.analysis.learned_layers import LearnedLayers
from halut.analysis.sensitivity import Candidate, candidates_of, sensitivity
from halut.errors import HalutError
from halut.layers.lut import LUTLayer
from halut.sites.operator import ReplacedLayer

CONFIGS = [
    halut.Tree(C=2, K=4),
    halut.Tree(C=2, K=4, bits=4, residual=1),
    halut.DecisionTree(C=2, K=4),
    halut.PQ(C=2, K=4, output_metric=True),
    halut.Integer(width=4),
    halut.LQNet(width=2),
    halut.BinaryResidual(levels=2),
]


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3)
    return nn.Sequential(*layers).eval().requires_grad_(False)


@pytest.fixture
def data():
    torch.manual_seed(1)
    return [(torch.randn(8, 2, 5, 5), torch.randint(3, (8,))) for _ in range(4)]


@pytest.fixture
def sites(network):
    return halut.find_sites(network, torch.zeros(1, 2, 5, 5))[0]


@pytest.fixture
def learning(monkeypatch):
    """Names of the sites that were learned."""
    names = []
    real = LUTLayer.calibrate

    def calibrate(self, *args, **kwargs):
        names.append(self.site.name)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(LUTLayer, "calibrate", calibrate)
    return names


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_a_layer_from_its_file_answers_as_when_it_was_learned(network, sites, tmp_path, config):
    entry = Candidate.of(sites[0], config).entry
    rows, x = torch.randn(256, 18), torch.randn(3, 2, 5, 5)
    first = LearnedLayers(tmp_path).learned(network, entry, rows, 0)
    (file,) = tmp_path.iterdir()
    again = LearnedLayers(tmp_path).learned(network, entry, rows, 0)
    assert isinstance(again, ReplacedLayer)
    assert torch.equal(first.eval()(x), again.eval()(x))
    assert not torch.equal(first(x), network[0](x))
    assert list(tmp_path.iterdir()) == [file]


def test_what_decides_a_layer_decides_its_file(network, sites, tmp_path):
    tree = Candidate.of(sites[0], halut.Tree(C=2, K=4)).entry
    other = Candidate.of(sites[0], halut.Tree(C=2, K=8)).entry
    rows = torch.randn(64, 18)
    layers = LearnedLayers(tmp_path)
    places = {layers.place(network, tree, rows, 0)}
    assert {layers.place(network, tree, rows.clone(), 0)} == places
    places |= {
        layers.place(network, other, rows, 0),
        layers.place(network, tree, rows + 1, 0),
        layers.place(network, tree, rows, 1),
        LearnedLayers(tmp_path, "a plugin's digest").place(network, tree, rows, 0),
    }
    network[0].weight += 1
    places.add(layers.place(network, tree, rows, 0))
    assert len(places) == 6


def test_what_sensitivity_learned_is_not_learned_again(network, sites, data, tmp_path, learning):
    candidates = candidates_of(sites, [halut.Tree(C=2, K=4), halut.PQ(C=2, K=4)])
    found = sensitivity(
        network, candidates, data, data, scores=["measured"], learned=LearnedLayers(tmp_path)
    )
    losses = {repr(each.candidate.entry): each.figures["loss"] for each in found}
    assert len(learning) == len(candidates) == 4
    assembly = Assembly(network, sites, data, data, learned=LearnedLayers(tmp_path))
    for candidate in candidates:
        figures = assembly.measure([candidate.entry])
        assert figures["loss"] == pytest.approx(losses[repr(candidate.entry)], rel=1e-6)
    assert len(learning) == 4
    Assembly(network, sites, data, data).measure([candidates[0].entry])
    assert len(learning) == 5


def test_a_damaged_file_is_named(network, sites, tmp_path):
    entry = Candidate.of(sites[0], halut.Tree(C=2, K=4)).entry
    rows = torch.randn(64, 18)
    layers = LearnedLayers(tmp_path)
    layers.learned(network, entry, rows, 0)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(HalutError, match=file.name):
        layers.learned(network, entry, rows, 0)
