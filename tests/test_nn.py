"""Layers constructed like torch's, in networks that have them from the start."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import halut
from halut.inference.prepare import prepare

CONV = {"stride": 2, "padding": 1, "dilation": 1, "groups": 2, "bias": False}


@pytest.mark.parametrize(
    ("ours", "config", "most"),
    [(halut.nn.LUTLinear, halut.Tree(V=2), 0.3), (halut.nn.CodecLinear, None, 1e-3)],
)
def test_a_linear_approximates_torchs(ours, config, most):
    torch.manual_seed(0)
    layer = ours(32, 12, config=config)
    torch.manual_seed(0)
    exact = nn.Linear(32, 12)
    x = torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(3))
    assert torch.equal(layer.weight, exact.weight)
    assert torch.equal(layer.bias, exact.bias)
    assert (layer.in_features, layer.out_features) == (32, 12)
    assert isinstance(layer, ours)
    expected = exact(x) - exact.bias
    far = (layer(x) - exact(x)).square().mean() / expected.square().mean()
    assert far.item() < most


@pytest.mark.parametrize(
    ("ours", "config", "most"),
    [(halut.nn.LUTConv2d, halut.Tree(V=2), 0.3), (halut.nn.CodecConv2d, None, 1e-3)],
)
def test_a_convolution_approximates_torchs(ours, config, most):
    torch.manual_seed(0)
    layer = ours(8, 12, 3, **CONV, config=config)
    torch.manual_seed(0)
    exact = nn.Conv2d(8, 12, 3, **CONV)
    x = torch.randn(4, 8, 9, 9, generator=torch.Generator().manual_seed(3))
    assert layer.bias is None
    assert (layer.kernel_size, layer.stride, layer.groups) == ((3, 3), (2, 2), 2)
    assert layer(x).shape == exact(x).shape
    far = (layer(x) - exact(x)).square().mean() / exact(x).square().mean()
    assert far.item() < most


def test_calibration_on_what_it_gets_lowers_its_error():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 2, generator=generator) @ torch.randn(2, 32, generator=generator)
    layer = halut.nn.LUTLinear(32, 12, config=halut.PQ(K=16, V=8))
    before = layer.diagnose(x)["normalized_mse"]
    halut.nn.calibrate(layer, x)
    assert layer.diagnose(x)["normalized_mse"] < before / 2


class Own(nn.Module):
    def __init__(self, config=None) -> None:
        super().__init__()
        self.conv = halut.nn.LUTConv2d(3, 6, 3, config=config)
        self.head = halut.nn.CodecLinear(6, 4, config=halut.LQNet(width=2))

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def test_a_network_of_them_trains_is_saved_copied_and_prepared(tmp_path):
    torch.manual_seed(0)
    network, x = Own(halut.Tree(K=8)), torch.randn(16, 3, 6, 6)
    optimizer = torch.optim.SGD(halut.param_groups(network, lr=0.05))
    halut.attach(optimizer, network, steps=8)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), torch.arange(16) % 4)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    network.eval()
    halut.save(network, tmp_path / "mine")
    other = Own(halut.Tree(K=8))
    plan = halut.load_into(other, tmp_path / "mine")
    assert [(e.site.name, e.operator) for e in plan] == [("conv", "tree"), ("head", "lqnet")]
    assert torch.equal(other.eval()(x), network(x))
    assert torch.equal(copy.deepcopy(network)(x), network(x))
    assert torch.allclose(prepare(network, x)(x), network(x), atol=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(halut.HalutError, match=r"LUTLinear has 8 inputs: C must be in 1\.\.8"):
        halut.nn.LUTLinear(8, 4, config=halut.Tree(C=9))
    with pytest.raises(halut.HalutError, match="LUTConv2d takes the config of a table"):
        halut.nn.LUTConv2d(8, 4, 3, config=halut.Integer())
    with pytest.raises(halut.HalutError, match="CodecLinear takes the config of a codec"):
        halut.nn.CodecLinear(8, 4, config=halut.Tree())


def test_on_the_meta_device_nothing_is_learned():
    layer = halut.nn.LUTLinear(8, 4, device="meta")
    assert all(p.is_meta for p in layer.parameters())
