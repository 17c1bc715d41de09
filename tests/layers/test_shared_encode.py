"""Layers with one encoder encode their input once, and answer and learn as they would apart."""

from __future__ import annotations

import pytest
import torch

from halut.configs.tables import HARD_ESTIMATORS
from halut.encoders import encoders
from halut.layers import shared_product
from halut.ops import cpu, forced
from tests.layers.shared_group import GROUPS, Count, apart, assert_same_gradients, group, step

ESTIMATORS = [(name, one) for name in encoders for one in encoders[name].estimators]
TABLES = [
    {},
    {"scale": "layer", "bits": 4, "clip": "mse"},
    {"scale": "codebook"},
    {"bits": None},
    {"average": 2},
    {"tau_per": "codebook"},
    {"parameterization": "derived", "ridge": None},
    {"parameterization": "derived", "ridge": 1.0, "bits": None},
]


def assert_alike(layers, x):
    separate = apart(layers)
    (ours, actual), (theirs, expected) = step(layers, x), step(separate, x)
    for y, other in zip(ours, theirs, strict=True):
        assert torch.equal(y, other)
        assert y.stride() == other.stride()
    assert_same_gradients(actual, expected)
    with torch.no_grad():
        for layer, other in zip(layers, separate, strict=True):
            assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize("options", TABLES, ids=str)
@pytest.mark.parametrize(("encoder", "estimator"), ESTIMATORS)
def test_the_same_answers_and_gradients(encoder, estimator, options):
    layers, x = group("linear", encoder, estimator=estimator, **options)
    for layer in layers:
        layer.after_step(0.4)  # of blend
    assert_alike(layers, x)


@pytest.mark.parametrize("options", [{}, {"bits": None}], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("encoder", encoders)
@pytest.mark.parametrize("case", ["3x3", "grouped"])
def test_the_same_on_maps(case, encoder, layout, options):
    layers, x = group(case, encoder, **options)
    assert_alike(layers, x.contiguous(memory_format=layout))


@pytest.mark.parametrize("case", GROUPS)
@pytest.mark.parametrize("encoder", encoders)
def test_the_same_where_gradients_meet_in_parts(monkeypatch, encoder, case):
    layers, x = group(case, encoder)
    x = torch.cat([x, 2 * x, -x], 0)
    monkeypatch.setattr(shared_product, "ROWS", (4, 4))
    count = Count(monkeypatch, layers[0].encoder)
    step(layers, x)
    assert count.take()[1] > 2
    assert_alike(layers, x)


@pytest.mark.parametrize("encoder", ["tree", "pq"])
def test_the_same_without_compiled_kernels_and_at_every_level(encoder):
    layers, x = group("3x3", encoder)
    with forced("torch"):
        assert_alike(layers, x)
    for level in cpu.cpu_capabilities():
        with cpu.use_cpu_capability(level):
            assert_alike(layers, x)


@pytest.mark.parametrize("encoder", encoders)
def test_the_same_in_other_dtypes_on_many_and_no_rows(encoder):
    layers, x = group("linear", encoder)
    assert_alike(layers, x.bfloat16())
    assert_alike(layers, x.repeat(40, 1, 1))
    assert_same_gradients(step(layers, x[:0])[1], step(apart(layers), x[:0])[1])
    assert [tuple(layer(x[:0]).shape) for layer in layers] == [(0, 3, 6), (0, 3, 5), (0, 3, 1)]
    separate = apart(layers)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = ([layer(x) for layer in some] for some in (layers, separate))
    assert all(torch.equal(y, other) for y, other in zip(ours, theirs, strict=True))
    assert_alike(layers.double(), x.double())


@pytest.mark.parametrize("case", GROUPS)
@pytest.mark.parametrize(("encoder", "estimator"), ESTIMATORS)
def test_one_encode_and_one_gradient_of_it(monkeypatch, case, encoder, estimator):
    layers, x = group(case, encoder, estimator=estimator)
    count = Count(monkeypatch, layers[0].encoder)
    for _ in range(2):
        step(layers, x)
        assert count.take() == (1, int(estimator not in HARD_ESTIMATORS))
        with torch.no_grad():
            for layer in layers:
                layer(x)
        assert count.take() == (1, 0)
    separate = apart(layers[:1])
    count = Count(monkeypatch, separate[0].encoder)
    step(separate, x)
    assert count.take()[0] == 1  # the counter sees the way of a layer of its own


def test_what_does_not_train_gets_no_gradient():
    layers, x = group("linear", "decision_tree")
    layers[1].lut.requires_grad_(False)
    layers[0].encoder.thresholds.requires_grad_(False)
    _, actual = step(layers, x)
    assert actual.keys() == {"x", "0.lut", "2.lut", "0.bias", "2.bias", "tau"}
    assert_alike(layers, x)
    layers[0].tau.requires_grad_(False)
    assert all(not layer(x).requires_grad for layer in layers[1:2])


def test_each_pass_takes_the_gradients_of_its_own_products():
    layers, x = group("linear")
    separate = apart(layers)
    x.requires_grad_()
    thresholds, tau = layers[0].encoder.thresholds, layers[0].tau
    sums = [layer(x).square().sum() for layer in layers]
    expected = []
    for layer in separate:
        loss = layer(x).square().sum()
        expected.append(torch.autograd.grad(loss, [layer.encoder.thresholds, layer.tau, x]))
    # This one stops at the table; what it leaves behind must not reach the next.
    torch.autograd.grad(sums[1], layers[1].lut, retain_graph=True)
    for index in (0, 2, 1, 1):
        actual = torch.autograd.grad(sums[index], [thresholds, tau, x], retain_graph=True)
        for ours, theirs in zip(actual, expected[index], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    actual = torch.autograd.grad(sum(sums), [thresholds, tau, x])
    for ours, *theirs in zip(actual, *expected, strict=True):
        torch.testing.assert_close(ours, sum(theirs), rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_not_called_gets_no_gradient():
    layers, x = group("linear")
    layers[0](x).square().sum().backward()
    assert layers[0].encoder.thresholds.grad is not None
    assert layers[1].lut.grad is None


def test_answers_may_be_changed_in_place():
    layers, x = group("3x3")
    separate = apart(layers)
    for members in (layers, separate):
        sum(layer(x).relu_().view(-1).sum() for layer in members).backward()
    ours, theirs = layers[0].encoder, [layer.encoder for layer in separate]
    expected = sum(encoder.thresholds.grad for encoder in theirs)
    torch.testing.assert_close(ours.thresholds.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoder", ["tree", "pq"])
def test_compiled_layers_answer_the_same(encoder):
    layers, x = group("linear", encoder)

    def network(x):
        return torch.cat([layer(x) for layer in layers], -1)

    expected = network(x)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), expected)
    assert torch.equal(network(x), expected)
