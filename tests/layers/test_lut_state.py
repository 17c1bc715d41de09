"""State of table layers: learned once, saved whole, loaded into an empty layer."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from halut.encoders import encoders
from halut.layers.lut import code_usage
from tests.layers.lut_oracle import LAYERS, inputs_of, make

ENCODERS = list(encoders)
FORMS = [
    {},
    {"parameterization": "derived", "ridge": None},
    {"parameterization": "derived", "ridge": 2.0, "tau_per": "codebook"},
    {"bits": None, "estimator": "identity"},
    {"bits": 4, "scale": "codebook", "clip": "mse", "estimator": "blend"},
]


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_empty_layer_loads_the_state_and_answers_the_same(encoder, options):
    layer, _ = make("grouped", encoder, **options)
    layer.after_step(0.5)
    empty, _ = make("grouped", encoder, calibrated=False, seed=9, **options)
    x = inputs_of(LAYERS["grouped"][1])
    assert not torch.equal(empty(x), layer(x))
    empty.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(empty(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_parameter_has_one_role(encoder, options):
    layer, _ = make("linear", encoder, calibrated=False, **options)
    ids = [id(p) for role in layer.param_groups().values() for p in role]
    assert sorted(ids) == sorted(id(p) for p in layer.parameters())
    assert set(layer.param_groups()) <= {"table", "prototypes", "thresholds", "temperature", "rest"}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_same_seed_learns_the_same_layer(encoder):
    first, again = make("3x3", encoder)[0], make("3x3", encoder)[0]
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_few_and_constant_rows(encoder):
    for rows in (torch.ones(1, 11), torch.ones(50, 11), inputs_of((3, 11))):
        layer, source = make("linear", encoder, calibrated=False, bits=None)
        layer.calibrate(rows)
        assert all(bool(value.isfinite().all()) for value in layer.state_dict().values())
        assert float(layer.tau.detach()) > 0
        torch.testing.assert_close(layer(rows), source(rows), rtol=1e-3, atol=1e-3)


def test_the_starting_temperature():
    assert make("linear", tau=0.25)[0].tau.item() == 0.25
    per_codebook = make("linear", tau_per="codebook")[0].tau
    assert per_codebook.shape == (4,)
    assert torch.equal(per_codebook, make("linear")[0].tau.expand(4))


def test_temperature_and_blend_stay_in_their_bounds():
    layer, _ = make("linear", estimator="blend")
    with torch.no_grad():
        layer.tau.fill_(-3.0)
    for progress, blend in ((-1.0, 0.0), (0.4, 0.4), (7.0, 1.0)):
        layer.after_step(progress)
        assert float(layer.blend) == pytest.approx(blend)
    assert float(layer.tau) == pytest.approx(1e-4)


def test_the_ridge_refinement_lowers_the_error_on_its_rows():
    x = inputs_of((500, 4), seed=7) @ inputs_of((4, 11), seed=8)  # blocks tell of each other
    errors = []
    for ridge in (None, 1.0):
        layer, source = make("linear", calibrated=False, bits=None, ridge=ridge)
        layer.calibrate(x)
        errors.append(float((layer(x) - source(x)).square().sum().detach()))
    assert errors[1] < 0.98 * errors[0]


def test_diagnose_against_definitions():
    layer, source = make("grouped", bits=4, clip="mse")
    x = inputs_of(LAYERS["grouped"][1])
    figures = layer.diagnose(x)
    with torch.no_grad():
        y, exact = layer(x), source(x)
    expected = float((y - exact).square().sum() / exact.square().sum())
    assert figures["normalized_mse"] == pytest.approx(expected, rel=1e-4)
    assert figures["drift"] == 0
    assert figures["tau"] == pytest.approx(float(layer.tau))
    assert figures["soft_hard_gap"] > 0
    with torch.no_grad():
        layer.encoder.thresholds *= 1.1
    assert layer.diagnose(x)["drift"] == pytest.approx(0.1, rel=1e-4)


def test_code_usage_by_hand():
    codes = torch.tensor([[0, 2], [0, 2], [1, 2], [1, 2]], dtype=torch.uint8)
    perplexity, dead = code_usage(codes, K=4)
    assert perplexity == pytest.approx((2 + 1) / 2)  # two codes evenly, one code only
    assert dead == 2 + 3
    codes = torch.tensor([[0], [0], [0], [1]], dtype=torch.uint8)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert code_usage(codes, K=2)[0] == pytest.approx(math.exp(entropy))
