"""Layers with one encoder where the backward pass runs with other tensors than theirs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from halut.encoders import encoders
from tests.layers.shared_group import apart, assert_same_gradients, gradients, group


class Block(nn.Module):
    """All layers of a group within or beside checkpoints."""

    def __init__(self, layers, way, reentrant):
        super().__init__()
        self.layers, self.way, self.reentrant = layers, way, reentrant

    def forward(self, x):
        def saved(run, x):
            return checkpoint(run, x, use_reentrant=self.reentrant)

        if self.way == "whole":
            return saved(lambda x: torch.cat([layer(x).tanh() for layer in self.layers], -1), x)
        first, *rest = self.layers
        if self.way == "each":
            return torch.cat([saved(layer, x).tanh() for layer in self.layers], -1)
        if self.way == "first":
            return torch.cat([saved(first, x).tanh(), *(one(x).tanh() for one in rest)], -1)
        others = [first(x).tanh(), *(saved(layer, x).tanh() for layer in rest)]
        return torch.cat(others, -1)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("way", ["whole", "each", "first", "rest"])
@pytest.mark.parametrize("encoder", encoders)
def test_checkpoints_recompute_what_they_saved(encoder, way, reentrant):
    layers, x = group("linear", encoder)
    separate = apart(layers)
    plain = x.clone().requires_grad_()
    torch.cat([layer(plain).tanh() for layer in separate], -1).square().sum().backward()
    expected = {"x": plain.grad, **gradients(separate)}
    block = Block(layers, way, reentrant)
    for _ in range(2):
        layers.zero_grad()
        x = x.detach().requires_grad_()
        block(x).square().sum().backward()
        assert_same_gradients({"x": x.grad, **gradients(layers)}, expected)


@pytest.mark.parametrize("encoder", encoders)
def test_a_layer_of_its_own_trains_through_a_checkpoint(encoder):
    (layer, *_), x = group("linear", encoder)
    layer = copy.deepcopy(layer)
    layer(x).square().sum().backward()
    expected = gradients([layer])
    layer.zero_grad()
    checkpoint(layer, x, use_reentrant=False).square().sum().backward()
    assert_same_gradients(gradients([layer]), expected)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("encoder", encoders)
def test_parameters_given_for_one_call_are_those_that_train(encoder, alone):
    """The backward pass runs when the layers have their own parameters again."""
    layers, x = group("linear", encoder)
    layers = nn.ModuleList(apart(layers)[:1]) if alone else layers
    network = nn.ModuleDict({"layers": layers})
    network.forward = lambda x: sum(layer(x).square().sum() for layer in layers)
    parameters = {name: 0.8 * one.detach() for name, one in network.named_parameters()}
    parameters = {name: one.requires_grad_() for name, one in parameters.items()}
    loss = torch.func.functional_call(network, parameters, (x,))
    actual = torch.autograd.grad(loss, list(parameters.values()))
    with torch.no_grad():
        for name, one in network.named_parameters():
            one.copy_(parameters[name])
    network(x).backward()
    for (name, one), ours in zip(network.named_parameters(), actual, strict=True):
        torch.testing.assert_close(ours, one.grad, msg=name)
