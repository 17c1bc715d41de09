"""What layers remember of a common input: never for another one, and no longer than needed."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from halut.encoders import encoders
from halut.errors import HalutError
from tests.layers.shared_group import Count, apart, assert_same_gradients, group, step


@pytest.fixture
def many():
    layers, x = group("linear")
    return layers, x.repeat(20, 1, 1)


def remembered(layers):
    return layers[0].readers._last


def answers_of_copies(layers, x):
    """What the layers answer to x where nothing can be remembered."""
    return [layer(x) for layer in apart(layers)]


def assert_right(layers, x, which=(0, 1, 2)):
    for index in which:
        assert torch.equal(layers[index](x), answers_of_copies(layers, x)[index])


CHANGES = {
    "the input, in place": lambda layers, x: x.neg_(),
    "the input's view, in place": lambda layers, x: x[0].neg_(),
    "thresholds": lambda layers, x: layers[0].encoder.thresholds.neg_(),
    "loaded weights": lambda layers, x: layers.load_state_dict(
        {k: -v if v.is_floating_point() else v for k, v in layers.state_dict().items()}
    ),
    "another parameter": lambda layers, x: setattr(
        layers[0].encoder, "thresholds", nn.Parameter(-layers[0].encoder.thresholds)
    ),
    "data, and a step": lambda layers, x: (
        layers[0].encoder.thresholds.data.neg_(),
        layers[0].after_step(0.5),
    ),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_between_calls_are_seen(many, change, grad):
    layers, x = many
    with torch.set_grad_enabled(grad):
        before = layers[0](x)
        assert remembered(layers) is not None
        with torch.no_grad():
            CHANGES[change](layers, x)
        assert_right(layers, x, (1, 0, 2))
        assert not torch.equal(layers[0](x), before)


def test_an_equal_input_is_another_one(many, monkeypatch):
    layers, x = many
    count = Count(monkeypatch, layers[0].encoder)
    layers[0](x)
    layers[1](x.clone())
    layers[2](x)
    assert count.take()[0] == 3


def test_learning_and_an_exception_in_between_leave_nothing_behind(many):
    layers, x = many
    layers[1](x)
    with pytest.raises(HalutError, match=r"got torch\.complex64"):
        layers[0](x.to(torch.complex64))
    assert_right(layers, x)
    layers[1](x)
    for layer in layers:  # writes through `data`
        layer.calibrate(-2 * x.flatten(0, 1))
    assert_right(layers, x)


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        lambda: torch.autocast("cpu", torch.bfloat16),
        torch.inference_mode,
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
    ],
)
def test_codes_of_one_mode_are_not_for_another(many, monkeypatch, mode):
    layers, x = many
    count = Count(monkeypatch, layers[0].encoder)
    layers[0](x)
    with mode():
        y = layers[1](x)
    layers[2](x)
    assert count.take()[0] == 3
    assert y.isfinite().all()
    step(layers, x)
    assert count.take() == (1, 1)


def test_inference_tensors_count_no_changes_and_are_not_remembered(many):
    layers, x = many
    with torch.inference_mode():
        x = x.clone()
        first = layers[0](x)
        x.neg_()
        assert not torch.equal(layers[0](x), first)
        assert_right(layers, x)
        assert remembered(layers) is None


@pytest.mark.parametrize("grad", [False, True])
def test_all_have_them_then_they_are_gone(many, grad):
    layers, x = many
    with torch.set_grad_enabled(grad):
        outputs = [layers[index](x) for index in (2, 0)]
        assert remembered(layers) is not None
        outputs.append(layers[1](x))
    assert remembered(layers) is None
    assert len(outputs) == 3


@pytest.mark.parametrize("encoder", encoders)
def test_what_is_remembered_keeps_neither_input_nor_graph(encoder):
    layers, x = group("linear", encoder)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            embedded = x * torch.ones((), requires_grad=True)
            upstream = weakref.ref(embedded)
            y = layers[0](embedded)
            codes = weakref.ref(remembered(layers).codes)
            del embedded, y
            gc.collect()
            assert upstream() is None
            assert codes() is None
            assert remembered(layers) is None


def test_a_copied_network_shares_within_itself(many, monkeypatch):
    layers, x = many
    layers[0](x)
    again = copy.deepcopy(layers)
    assert remembered(again) is None
    assert again[0].encoder is again[2].encoder
    assert again[0].tau is again[2].tau
    assert again.state_dict().keys() == layers.state_dict().keys()
    with torch.no_grad():
        again[0].encoder.thresholds.neg_()
    count = Count(monkeypatch, again[0].encoder)
    assert_right(layers, x, (1, 2))
    assert count.take()[0] == 0
    step(again, x)
    assert count.take() == (1, 1)
    assert_right(again, x)


def test_an_averaged_copy_follows(many):
    layers, x = many
    averaged = torch.optim.swa_utils.AveragedModel(
        layers, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    optimizer = torch.optim.SGD(layers.parameters(), 0.1)
    for _ in range(2):
        step(layers, x)
        optimizer.step()
        averaged.update_parameters(layers)
    assert_right(averaged.module, x)
    assert_right(layers, x)


def test_layers_of_different_blend_are_encoded_apart(monkeypatch):
    layers, x = group("linear", estimator="blend")
    layers[1].after_step(0.7)
    count = Count(monkeypatch, layers[0].encoder)
    (_, actual), (_, expected) = step(layers, x), step(apart(layers), x)
    assert_same_gradients(actual, expected)
    assert count.take()[0] == 3
    for layer in layers:
        layer.after_step(0.8)
    step(layers, x)
    assert count.take() == (1, 1)
