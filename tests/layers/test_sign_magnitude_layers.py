"""Layers by signs and magnitudes: what training computes is what integer sums say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.errors import HalutError
from halut.inference.lowering import lower
from halut.inference.sign_magnitude import SignMagnitudeLayer
from halut.replace.operator_registry import make_operator
from halut.sites.calibration import capture
from halut.sites.find import Site, find_sites
from tests.oracles.im2col import im2col_reference
from tests.oracles.integer import sign_magnitude_reference

SOURCES = {
    "linear": (lambda: nn.Linear(20, 7), (3, 5, 20)),
    "conv": (lambda: nn.Conv2d(6, 8, 3, padding=1), (2, 6, 9, 8)),
    "strided": (lambda: nn.Conv2d(6, 8, (3, 2), 2, padding=(0, 1), bias=False), (2, 6, 9, 8)),
    "grouped": (lambda: nn.Conv2d(40, 12, 3, padding=2, dilation=2, groups=2), (2, 40, 9, 8)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, padding="same", groups=6), (2, 6, 9, 8)),
    "point": (lambda: nn.Conv2d(40, 5, 1, stride=2), (2, 40, 9, 8)),
}


def built(kind, operator="sign_magnitude", **options):
    torch.manual_seed(0)
    make, shape = SOURCES[kind]
    source, x = make().eval(), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    network = nn.Sequential(source)
    site = find_sites(network, x[:1])[0][0]
    layer = make_operator(operator, **options).build(site, source)
    layer.calibrate(capture(network, [site], [x])[site.name])
    return layer, x


@pytest.mark.parametrize("kind", SOURCES)
def test_a_convolution_is_unfold_and_linear_exactly(kind):
    layer, x = built(kind, fraction=5)  # one known scale: codes of floats can be told back
    site = layer.site
    prepared = lower(layer)
    assert isinstance(prepared, SignMagnitudeLayer)
    rows = (im2col_reference(layer.quantized_input(x), site.geometry) * 32).to(torch.int8)
    weight = (layer.quantized_weight() * 32).to(torch.int8).view(site.groups, -1, site.D)
    sums = sign_magnitude_reference(rows, weight)
    assert sums.abs().max() > 300
    y = sums.float() / 1024
    if layer.bias is not None:
        y = y + layer.bias
    actual = prepared(x)
    actual = actual.flatten(0, -2) if kind == "linear" else actual.permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.equal(actual, y)
    assert torch.equal(layer(x), prepared(x))


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("operator", ["sign_magnitude", "integer"])
def test_what_is_prepared_is_what_was_trained(kind, operator):
    layer, x = built(kind, operator, contraction="sign_magnitude", bias={"name": "integer"})
    prepared = lower(layer)
    assert torch.equal(prepared(x), layer(x))
    assert layer.diagnose(x)["normalized_mse"] < 1e-3
    assert prepared(x.bfloat16()).dtype == torch.bfloat16
    assert prepared(x[:0]).shape == layer(x[:0]).shape
    dense, _ = built(kind, operator, contraction="dense", bias={"name": "integer"})
    torch.testing.assert_close(layer(x), dense(x))


def test_gradients_are_those_of_the_dense_product():
    grads = []
    for contraction in ("sign_magnitude", "dense"):
        layer, x = built("conv", contraction=contraction)
        x.requires_grad_()
        layer(x).square().sum().backward()
        grads.append((x.grad, layer.weight.grad, layer.bias.grad))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert ours.abs().max() > 0


def test_auto_means_it_for_both_factors_alone():
    both = make_operator("sign_magnitude")
    assert both.contraction == "sign_magnitude"
    assert both.plan_options(built("linear")[0].site)["contraction"] == "sign_magnitude"
    assert make_operator("sign_magnitude", activation=None).contraction == "dense"
    assert make_operator("integer").contraction == "dense"


def test_sums_that_could_overflow_are_refused():
    operator = make_operator("sign_magnitude")
    operator.check(Site("fits", "linear", 131_071, 2))
    with pytest.raises(HalutError, match=r"wide has 131072 inputs: .* there can be 1\.\.131071"):
        operator.check(Site("wide", "linear", 131_072, 2))
