"""The code around prepared layers meets what it asks of a layer, or is refused when prepared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.errors import HalutError
from halut.inference import prepare
from tests.inference.test_prepared_contract import network_of

OPERATORS = ["tree", "pq", "integer", "sign_magnitude", "mxint8", "lqnet popcount"]
USES = {
    "dtype": lambda layer, x: layer(x.to(layer.weight.dtype)),
    "device": lambda layer, x: layer(x.to(layer.weight.device)),
    "shape": lambda layer, x: layer(x) * layer.weight.shape[1] / layer.weight.numel(),
    "hasattr": lambda layer, x: layer(x) if hasattr(layer, "weight") else x,
    "bias": lambda layer, x: layer(x) if layer.bias is not None else x,
    "parameters": lambda layer, x: layer(x.to(next(layer.parameters()).device)),
}


class Around(nn.Module):
    def __init__(self, layer, use):
        super().__init__()
        self.layer, self.use = layer, use

    def forward(self, x):
        return self.use(self.layer, x)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("operator", OPERATORS)
@torch.no_grad()
def test_extra_repr_of_a_layer_is_kept(operator, use):
    network = Around(network_of(operator)[0].head, USES[use])
    x = torch.randn(6, 8)
    for example in (None, x[:2]):
        torch.testing.assert_close(prepare(network, example)(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operator", OPERATORS)
@torch.no_grad()
def test_an_absent_weight_follows_casts_and_is_never_a_number(operator):
    prepared = prepare(network_of(operator)[0])
    head = prepared.half().head
    assert head.weight.shape == (5, 8)
    assert next(head.parameters()).dtype == torch.float16
    if operator != "integer":  # it holds its weight
        assert head.weight.dtype == torch.float16
        assert head.weight.isnan().all()
    assert not any(key.endswith("like") for key in prepared.state_dict())


def test_code_that_does_otherwise_is_refused():
    layer = network_of("tree")[0].head
    layer.register_parameter("own", nn.Parameter(torch.zeros(())))
    network = Around(layer, lambda layer, x: layer(x) if hasattr(layer, "own") else x)
    with pytest.raises(HalutError, match="answers otherwise with prepared layers"):
        prepare(network, torch.randn(2, 8))


class RoundedInCopies(nn.Module):
    """The identity; a copy of it answers a rounding more, as equal layers may from elsewhere."""

    def __init__(self):
        super().__init__()
        self.own = id(self)

    def forward(self, x):
        return x if id(self) == self.own else x * (1 + torch.finfo(x.dtype).eps)


@torch.no_grad()
def test_copies_that_round_otherwise_are_prepared():
    x = torch.randn(2, 8)
    network = nn.Sequential(network_of("integer")[0].head, RoundedInCopies()).eval()
    torch.testing.assert_close(prepare(network, x)(x), network(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_copies_that_round_across_a_threshold_are_prepared():
    layer = network_of("tree")[0].head
    x = torch.randn(2, 8)
    x[0] = layer.encoder.thresholds.flatten()[0]  # of the root: a rounding more is beyond it
    assert not torch.allclose(layer(x), layer(x * (1 + torch.finfo(x.dtype).eps)), rtol=1e-2)
    prepare(nn.Sequential(RoundedInCopies(), layer).eval(), x)


def test_training_mode_is_refused():
    network, x = network_of("integer")
    prepared = prepare(network, x[:2]).train()
    with pytest.raises(HalutError, match="evaluation mode"):
        prepared(x[:2])
    assert torch.equal(prepared.eval()(x), prepare(network, x[:2])(x))


@torch.no_grad()
def test_zeros_and_denormals_are_fit_for_an_example():
    network, _ = network_of("lqnet popcount")
    head = nn.Sequential(network.head)
    network.head.bias.zero_()
    rows = torch.randn(4, 8)
    expected = prepare(head)(rows)
    for example in (torch.zeros(2, 8), -torch.ones(2, 8), torch.full((2, 8), 1e-42)):
        assert torch.equal(prepare(head, example)(rows), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_planes_of_a_network_in_narrow_floats(dtype):
    network, x = network_of("abcnet popcount")
    network, x = network.to(dtype), x.to(dtype)
    assert prepare(network, x[:2])(x).dtype == dtype
