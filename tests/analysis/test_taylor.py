"""Taylor scores against one sample at a time, in plain torch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import halut
from halut.analysis import taylor
from halut.analysis.taylor import gradients, taylor_score
from halut.errors import HalutError
from halut.replace import swap
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.sites.plan import Entry


class Residual(nn.Module):
    """A block that adds in place, a layer called twice, and a norm whose statistics must rest."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        y = self.twice(x)
        y += x
        y = self.twice(F.relu(y))
        return self.head(y.mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = Residual()
    network(torch.randn(16, 2, 5, 5))
    return network.eval()


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(20, 2, 5, 5, generator=draw)
    labels = torch.randint(3, (20,), generator=draw)
    return [(images[:12], labels[:12]), (images[12:], labels[12:])]


def replaced_layer(network, name, batches, config):
    sites, _ = find_sites(network, batches[0][0][:1])
    site = next(each for each in sites if each.name == name)
    entry = Entry(site, config.name, config.options())
    layer = swap.build(network, entry)
    layer.calibrate(capture(network, [site], batches)[name])
    return layer.eval()


def one_by_one(network, name, layer, batches):
    """<g, dy> of each sample: the gradient at the layer's answers by a hook that keeps them."""
    products = []
    for images, labels in batches:
        for x, label in zip(images.split(1), labels.split(1), strict=True):
            kept = []

            def hook(module, inputs, output, kept=kept):
                output.retain_grad()
                kept.append((inputs[0].detach().clone(), output))
                return output * 1  # what follows may add in place

            trial = copy.deepcopy(network)
            for parameter in trial.parameters():
                parameter.requires_grad_(True)
            trial.get_submodule(name).register_forward_hook(hook)
            F.cross_entropy(trial(x), label).backward()
            source = network.get_submodule(name)
            product = 0.0
            for inputs, output in kept:
                with torch.no_grad():
                    change = layer(inputs) - source(inputs)
                product += float((output.grad * change).sum())
            products.append(product)
    return torch.tensor(products, dtype=torch.float64)


@pytest.mark.parametrize("name", ["conv", "twice", "head"])
@pytest.mark.parametrize("config", [halut.Integer(width=3), halut.PQ(K=4, C=2)])
@pytest.mark.parametrize("block", [1, 250, taylor.BLOCK])
def test_both_orders_are_those_of_one_sample_at_a_time(
    network, data, name, config, block, monkeypatch
):
    monkeypatch.setattr(taylor, "BLOCK", block)
    layer = replaced_layer(network, name, data, config)
    expected = one_by_one(network, name, layer, data)
    calls = gradients(network, ["conv", "twice", "head"], data)
    figures = taylor_score(network.get_submodule(name), layer, calls[name]).figures()
    assert figures["first_order"] == pytest.approx(float(expected.mean()), rel=1e-4, abs=1e-7)
    second = 0.5 * float(expected.square().mean())
    assert figures["second_order"] == pytest.approx(second, rel=1e-4)
    assert second > 0


def test_a_small_change_raises_the_loss_as_the_first_order_says(network, data):
    """The rise of the loss itself, of a weight that moves a little."""
    calls = gradients(network, ["head"], data)["head"]
    layer = copy.deepcopy(network.head)
    with torch.no_grad():
        layer.weight += 1e-3 * torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    trial = copy.deepcopy(network)
    trial.head = layer
    rise = sum(
        float(F.cross_entropy(trial(x), y, reduction="sum").detach().double())
        - float(F.cross_entropy(network(x), y, reduction="sum").detach().double())
        for x, y in data
    )
    figures = taylor_score(network.head, layer, calls).figures()
    assert figures["first_order"] == pytest.approx(rise / 20, rel=0.02)


def test_the_network_is_left_as_it_was(network, data):
    trial = copy.deepcopy(network).train()
    before = swap.digest(trial)
    gradients(trial, ["conv"], data)
    assert swap.digest(trial) == before
    assert trial.training
    assert all(parameter.grad is None for parameter in trial.parameters())
    assert "forward" not in vars(trial.conv)


@pytest.mark.parametrize(("option", "value"), [("PART", 5), ("ENTRIES", 5 * 2 * 5 * 5 + 49)])
def test_large_batches_run_in_parts(network, data, monkeypatch, option, value):
    whole = gradients(network, ["conv"], data)["conv"]
    monkeypatch.setattr(taylor, option, value)
    parts = gradients(network, ["conv"], data, samples=18)["conv"]
    assert [each.samples for batch in parts for each in batch] == [5, 5, 2, 5, 1]
    joined = torch.cat([each.gradient for batch in parts for each in batch])
    expected = torch.cat([each.gradient for batch in whole for each in batch])[:18]
    assert torch.allclose(joined, expected, atol=1e-6)


def test_a_sample_that_is_large_runs_alone(network, data, monkeypatch):
    monkeypatch.setattr(taylor, "ENTRIES", 1)
    calls = gradients(network, ["conv"], data)["conv"]
    assert [each.samples for batch in calls for each in batch] == [1] * 20


def test_a_part_of_the_samples(network, data):
    calls = gradients(network, ["head"], data, samples=15)["head"]
    assert [each.samples for batch in calls for each in batch] == [12, 3]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "at least one batch"),
        ([(torch.full((2, 2, 5, 5), float("nan")), torch.zeros(2, dtype=torch.int64))], "NaN"),
    ],
)
def test_data_that_cannot_be_scored(network, batches, message):
    with pytest.raises(HalutError, match=message):
        gradients(network, ["conv"], batches)
