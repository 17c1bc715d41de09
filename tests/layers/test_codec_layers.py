"""Codec layers: the same products as unfolding and multiplying, and what they cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.analysis.bit_operations import bit_figures, bits_line
from halut.analysis.network_cost import replaced_cost
from halut.layers.codec import CodecConv2d, CodecLinear
from halut.replace import swap
from halut.replace.operator_registry import make_operator
from halut.replace.policy import Rule, resolve
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from tests.oracles.im2col import im2col_reference

SOURCES = {
    "linear": (lambda: nn.Linear(20, 7), (3, 5, 20)),
    "conv": (lambda: nn.Conv2d(6, 8, 3, padding=1), (2, 6, 9, 8)),
    "strided": (lambda: nn.Conv2d(6, 8, (3, 2), 2, padding=(0, 1), bias=False), (2, 6, 9, 8)),
    "grouped": (lambda: nn.Conv2d(40, 12, 3, padding=2, dilation=2, groups=2), (2, 40, 9, 8)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, padding="same", groups=6), (2, 6, 9, 8)),
    "point": (lambda: nn.Conv2d(40, 5, 1, stride=2), (2, 40, 9, 8)),
}


def built(kind, operator, **options):
    torch.manual_seed(0)
    make, shape = SOURCES[kind]
    source, x = make().eval(), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    network = nn.Sequential(source)
    site = find_sites(network, x[:1])[0][0]
    layer = make_operator(operator, **options).build(site, source)
    layer.calibrate(capture(network, [site], [x])[site.name])
    return source, layer, x


@pytest.mark.parametrize("kind", SOURCES)
def test_kept_factors_are_the_exact_layer(kind):
    source, layer, x = built(kind, "integer", weight=None, activation=None)
    assert isinstance(layer, CodecLinear if kind == "linear" else CodecConv2d)
    assert torch.equal(layer(x), source(x))
    assert torch.equal(layer.exact(x), source(x))
    if source.bias is not None:
        assert torch.equal(layer.bias, source.bias)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("operator", ["integer", "block_fp", "binary_scaling"])
def test_a_convolution_is_unfold_and_linear(kind, operator):
    """Codes of the map are codes of its patches: quantize, unfold, multiply."""
    _, layer, x = built(kind, operator)
    site = layer.site
    rows = im2col_reference(layer.quantized_input(x), site.geometry).view(-1, site.groups, site.D)
    weight = layer.quantized_weight().view(site.groups, -1, site.D)
    y = torch.einsum("ngd,gmd->ngm", rows, weight).flatten(1)
    if layer.bias is not None:
        y = y + layer.bias
    actual = layer(x)
    actual = actual.flatten(0, -2) if kind == "linear" else actual.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(actual, y, rtol=1e-4, atol=1e-4)
    assert 0 < layer.diagnose(x)["normalized_mse"] < (0.9 if operator == "binary_scaling" else 0.01)


def test_blocks_are_input_channels_of_one_pixel():
    """Blocks of weight and activation hold the same inputs, and do not cross groups."""
    _, layer, x = built("grouped", "block_fp", width=4, block=16)
    assert layer.activation_codec.block == 16
    base = layer.quantized_input(x)
    changed = x.clone()
    changed[:, 16:20] *= 1000  # the second block of the first group, four inputs of it
    after = layer.quantized_input(changed)
    same = [torch.equal(base[:, c], after[:, c]) for c in range(40)]
    assert same == [True] * 16 + [False] * 4 + [True] * 20
    weight = layer.quantized_weight().view(12, 20, 9)
    layer.weight.data.view(12, 20, 9)[3, 16:, 4] *= 1000
    moved = (layer.quantized_weight().view(12, 20, 9) != weight).nonzero()
    assert set(moved[:, 0].tolist()) == {3}
    assert set(moved[:, 1].tolist()) <= {16, 17, 18, 19}
    assert set(moved[:, 2].tolist()) == {4}


def test_zeros_of_the_padding_stay_zeros():
    _, layer, _ = built("conv", "binary")
    one_pixel = torch.full((1, 6, 1, 1), -3.0)
    weight = layer.quantized_weight().view(8, 6, 3, 3)
    expected = -weight[:, :, 1, 1].sum(1) + layer.bias
    torch.testing.assert_close(layer(one_pixel).flatten(), expected)


# -- cost -----------------------------------------------------------------------------------------


def test_costs_by_hand():
    _, layer, _ = built("linear", "integer", width=4, activation={"width": 8}, bias={"width": 16})
    assert layer.cost() == {
        "macs": 5 * 20 * 7,
        "bops": 5 * 20 * 7 * 4 * 8,
        "weight_bits": 20 * 7 * 4 + 7 * 8,  # an exponent per output
        "input_bits": 5 * 20 * 8,
        "weight_bytes": 77 + 7 * 4 + 4,  # floats of the bias, one calibrated exponent
    }
    _, layer, _ = built("linear", "integer", bias={"name": "integer", "width": 16})
    assert layer.cost()["weight_bytes"] == 147 + 7 * 2 + 1 + 4
    _, layer, _ = built("grouped", "mxint8", activation=None)
    rows, blocks = 9 * 8, 12 * 9  # of 20 inputs, one block each
    cost = layer.cost()
    assert cost["weight_bits"] == 12 * 9 * 20 * 8 + blocks * 8
    assert cost["input_bits"] == rows * 9 * 40 * 32
    assert cost["bops"] == rows * 9 * 20 * 12 * 8 * 32
    _, layer, _ = built("grouped", "mxint8")
    assert layer.cost()["input_bits"] == rows * 9 * 2 * (20 * 8 + 8)


def test_averages_are_over_all_layers():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Flatten())
    x = torch.randn(64, 32)
    rules = [
        Rule("0", operator="integer", options={"width": 4, "activation": {"width": 8}}),
        Rule("1", operator="tree", options={"C": 4, "K": 16}),
    ]
    plan = resolve(find_sites(network, x[:1])[0], rules, "integer", {})
    swap.apply(network, plan)
    figures = bit_figures(plan, network)
    weights = 32 * 16 * 4 + 16 * 8, 4 * 16 * 16 * 8 + 16 * 32, 16 * 16 * 32
    assert figures["weight_bits"] == sum(weights) / (32 * 16 + 2 * 16 * 16)
    assert figures["activation_bits"] == (32 * 8 + 2 * 16 * 32) / 64
    tables = 4 * 4 * 32 + 2 * 4 * 16 * 8  # float compares, look-ups and adds of bytes
    assert figures["bops"] == 32 * 16 * 4 * 8 + tables + 16 * 16 * 32 * 32
    assert "18.6 bits a weight, 20 an activation; 280,064 bit operations" in bits_line(figures)
    assert replaced_cost(plan, network)["macs"] == 32 * 16 + 16 * 16
