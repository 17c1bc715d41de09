"""Noise on what the encoder reads, tables that are floats at first, and scaled temperatures."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import halut
from halut.encoders import encoders
from halut.errors import HalutError
from halut.layers.lut import LUTLayer
from tests.layers.lut_oracle import LAYERS, inputs_of, make
from tests.layers.test_lut_gradient import assert_alike, definition, gradients

ENCODERS = list(encoders)
CASES = ["linear", "grouped", "same"]


def noisy(x, share, seed=5):
    """x as the encoder reads it in training after manual_seed(seed)."""
    generator = torch.Generator().manual_seed(seed)
    return x + share * x.square().mean().sqrt() * torch.randn(x.shape, generator=generator)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("case", CASES)
def test_codes_and_gradients_are_those_of_noisy_inputs(case, encoder):
    layer, _ = make(case, encoder, bits=None, noise=0.3)
    x = inputs_of(LAYERS[case][1])

    def forward(x):
        torch.manual_seed(5)
        return layer(x)

    def by_hand(x):
        read = x + (noisy(x.detach(), 0.3) - x.detach())
        return definition(layer, read)

    layer.train()
    torch.testing.assert_close(forward(x), by_hand(x), rtol=1e-4, atol=1e-4)
    assert not torch.equal(forward(x), layer.eval()(x))
    layer.train()
    assert_alike(gradients(layer, x, forward), gradients(layer, x, by_hand))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_noise_in_evaluation_nor_where_it_is_zero(encoder):
    layer, _ = make("3x3", encoder, noise=0.5)
    plain, _ = make("3x3", encoder)
    x = inputs_of(LAYERS["3x3"][1])
    assert torch.equal(layer.eval()(x), plain.eval()(x))
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    assert torch.equal(plain.train()(x), plain.eval()(x))
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing is drawn
    first, second = (layer.train()(x) for _ in range(2))
    assert not torch.equal(first, second)


def test_the_identity_estimator_keeps_the_exact_gradient():
    layer, _ = make("linear", "pq", estimator="identity", noise=0.5, bits=None)
    x = inputs_of((6, 11)).requires_grad_()
    layer.train()(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(6, 11))


def test_noise_goes_by_the_root_mean_square_of_the_input():
    layer, _ = make("linear", noise=0.25)
    x = 8 * inputs_of((4096, 11))
    torch.manual_seed(0)
    added = layer.with_noise(x) - x
    assert float(added.std()) == pytest.approx(0.25 * float(x.square().mean().sqrt()), rel=0.02)
    assert torch.equal(layer.with_noise(torch.zeros(4, 11)), torch.zeros(4, 11))
    assert layer.with_noise(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("options", [{}, {"scale": "codebook"}, {"average": 2}], ids=str)
def test_tables_are_floats_until_their_share_of_the_stage(encoder, options):
    layer, _ = make("linear", encoder, quantize_from=0.5, bits=2, **options)
    x = inputs_of((40, 11))
    quantized = layer.eval()(x)
    floats = definition(layer, x)
    assert not torch.allclose(quantized, floats, atol=1e-3)
    for progress, expected in ((0.0, floats), (0.49, floats), (0.5, quantized), (1.0, quantized)):
        layer.train().after_step(progress)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(layer.eval()(x), quantized)
    layer.train().begin_fit(0.0)  # the next stage
    torch.testing.assert_close(layer(x), floats, rtol=1e-4, atol=1e-4)


def test_gradients_before_quantization_are_those_of_float_tables():
    layer, _ = make("linear", quantize_from=1.0, bits=2)
    floats = copy.deepcopy(layer)
    floats.options = type(layer.options)(**{**layer.options.options(), "bits": None})
    x = inputs_of((9, 11))
    assert_alike(gradients(layer.train(), x, layer), gradients(floats, x, floats), 1e-6, 1e-6)


def test_the_scale_of_the_estimated_temperature():
    plain, scaled = (make("linear", tau_scale=scale)[0].tau for scale in (1.0, 0.25))
    assert torch.equal(scaled, 0.25 * plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": -0.1}, "halut.noise must be at least 0, got -0.1"),
        ({"tau_scale": 0.0}, "halut.tau_scale must be positive, got 0.0"),
        ({"quantize_from": 1.5}, r"halut.quantize_from must be in 0..1, got 1.5"),
    ],
)
def test_values_that_cannot_be(options, message):
    with pytest.raises(HalutError, match=message):
        halut.Tree(**options)


def test_a_prepared_network_has_neither_noise_nor_float_tables():
    x = inputs_of((40, 16))
    networks = []
    for options in ({}, {"noise": 0.5, "quantize_from": 1.0}):
        torch.manual_seed(0)
        network = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
        halut.replace_(network, halut.Tree(V=4, **options), calibration=[x])
        networks.append(halut.prepare(network, x))
    plain, noised = (network(x) for network in networks)
    assert torch.equal(plain, noised)


def test_attach_begins_with_the_steps_that_were_done():
    network = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    halut.replace_(network, halut.PQ(V=4, quantize_from=0.5), calibration=[inputs_of((40, 8))])
    layers = [module for module in network.modules() if isinstance(module, LUTLayer)]
    optimizer = torch.optim.SGD(halut.param_groups(network))
    for start, floats in ((0, True), (3, False)):
        halut.attach(optimizer, network.train(), steps=4, start=start).remove()
        assert [layer.trains_by_floats() for layer in layers] == [floats] * len(layers)
