"""A network that runs from one layer on answers as the whole network does."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from halut.analysis.prefix import Prefix
from halut.sites.calls import Call


class Block(nn.Module):
    """Adds to a norm's answer in place, as torchvision's residual blocks do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = self.norm(self.conv(x))
        y += x
        return F.relu(y, inplace=True)


class Counter(nn.Module):
    """Counts what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return torch.tanh(x)


class Network(nn.Module):
    """Two blocks, a layer that is called twice, an answer that is its input."""

    def __init__(self) -> None:
        super().__init__()
        self.count = Counter()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), Block(4))
        self.twice = nn.Conv2d(4, 4, 1)
        self.second = nn.Sequential(nn.Dropout(), Block(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.first(self.count(x))
        x = self.twice(x) + x
        x = self.second(self.twice(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Network()
    network(torch.randn(8, 1, 6, 6))
    return network.eval().requires_grad_(False)


@pytest.fixture
def batches():
    return list(torch.randn(3, 4, 1, 6, 6, generator=torch.Generator().manual_seed(1)))


def changed(network, name):
    """The network with other weights in one layer."""
    layer = network.get_submodule(name)
    layer.weight.add_(torch.randn(layer.weight.shape))


@pytest.mark.parametrize(
    "name", ["first.0", "first.2.conv", "twice", "second.1.conv", "second.1.norm", "head"]
)
def test_it_answers_as_the_whole_network_does(network, batches, name):
    prefix = Prefix(network, name)
    assert prefix.verify(Call(batches[0]))
    for _ in range(3):
        expected = [copy.deepcopy(network)(x) for x in batches]
        for index, x in enumerate(batches):
            assert torch.equal(prefix.run(index, Call(x)), expected[index])
        changed(network, name)
    assert len(prefix.batches) == len(batches)


def test_what_lies_in_front_is_computed_once(network, batches):
    prefix = Prefix(network, "second.1.conv")
    prefix.verify(Call(batches[0]))
    network.count.calls = 0
    for _ in range(4):
        for index, x in enumerate(batches):
            prefix.run(index, Call(x))
    assert network.count.calls == len(batches)
    assert prefix.size > 0
    assert not any("forward" in vars(module) for module in network.modules())


def test_batches_in_another_order_run_in_full(network, batches):
    prefix = Prefix(network, "head")
    prefix.verify(Call(batches[0]))
    expected = [network(x) for x in batches]
    for index, x in enumerate(batches):
        prefix.run(index, Call(x))
    for index, x in enumerate(reversed(batches)):
        assert torch.equal(prefix.run(index, Call(x)), expected[-1 - index])


def test_no_more_than_the_memory_is_held(network, batches):
    calls = []
    for memory in (0, 500):
        prefix = Prefix(network, "head", memory)
        prefix.verify(Call(batches[0]))
        network.count.calls = 0
        for _ in range(2):
            for index, x in enumerate(batches):
                prefix.run(index, Call(x))
        assert prefix.size <= memory
        calls.append(network.count.calls)
    assert calls[0] == 2 * len(batches)
    assert len(batches) < calls[1] <= calls[0]


def test_a_network_that_answers_otherwise_runs_in_full(batches):
    class Counting(nn.Module):
        """Its answer depends on whether a module was computed."""

        def __init__(self) -> None:
            super().__init__()
            self.count, self.head = Counter(), nn.Linear(6, 2)

        def forward(self, x):
            before = self.count.calls
            return self.head(self.count(x)) * (self.count.calls - before)

    network = Counting().eval().requires_grad_(False)
    prefix = Prefix(network, "head")
    assert not prefix.verify(Call(batches[0]))
    for _ in range(3):
        assert torch.equal(prefix.run(0, Call(batches[0])), network(batches[0]))
    assert not prefix.batches
