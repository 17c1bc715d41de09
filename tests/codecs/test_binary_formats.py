"""Binary formats against their definitions."""

from __future__ import annotations

import pytest
import torch

from tests.codecs.number_formats import make, normal, quantized

X = [[-1.5, -0.25, 0.0, 0.5], [3.0, 1.0, -1.0, 7.0]]


def test_binary_golden():
    x = torch.tensor(X)
    assert quantized("binary", x).tolist() == [[-1, -1, 1, 1], [1, 1, -1, 1]]
    half = 0.5625  # (1.5 + .25 + 0 + .5) / 4
    unsigned = quantized("binary", x, unsigned=True)
    assert unsigned.tolist() == [[0, 0, 0, half], [3, 3, 0, 3]]
    assert quantized("binary", x, unsigned=True, per="tensor")[1].tolist() == [1.78125] * 2 + [
        0,
        1.78125,
    ]


def test_binary_scaling_golden():
    x = torch.tensor(X)
    half = 0.5625
    assert quantized("binary_scaling", x).tolist() == [[-half, -half, half, half], [3, 3, -3, 3]]
    value = quantized("binary_scaling", x, per="tensor")
    assert value.abs().unique().tolist() == [1.78125]
    alpha = x.abs().mean(1, keepdim=True)
    signs = quantized("binary", x)
    least = torch.stack([(x - a * alpha * signs).square().sum() for a in (0.95, 1.0, 1.05)])
    assert int(least.argmin()) == 1


def test_the_scale_of_activations_is_calibrated():
    codec, x = make("binary_scaling", normal(400, 1.0).view(20, 20), role="activation")
    assert float(codec.alpha) == pytest.approx(float(x.abs().mean()))
    assert torch.equal(codec.quantize(x * 9), codec.quantize(x))
    channels, x = make("binary_scaling", x[:, 0], role="activation", per="channel")
    torch.testing.assert_close(channels.alpha, x.abs().mean(0))


def test_signs_of_nonnegative_values_warn(caplog):
    x = normal(40).abs()[None]
    for value, warns in ((x, True), (-x, False)):
        for name in ("binary", "binary_scaling"):
            caplog.clear()
            make(name, value, role="activation")
            assert ("unsigned=true" in caplog.text) == warns
    caplog.clear()
    make("binary", x, role="activation", unsigned=True)
    make("binary_scaling", x)
    assert caplog.text == ""


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_binary_residual_by_its_definition(levels):
    x = normal(300, 1.0)
    codec, values = make("binary_residual", x[None], levels=levels, fitted=False)
    g = [2 * (levels + 1 - level) / (levels * (levels + 1)) for level in range(1, levels + 1)]
    assert codec.g.tolist() == pytest.approx(g)
    assert g == pytest.approx({1: [1], 2: [2 / 3, 1 / 3], 3: [1 / 2, 1 / 3, 1 / 6]}.get(levels, g))
    r, expected = x.clone(), torch.zeros_like(x)
    for factor in codec.g.tolist():
        part = factor * torch.where(r >= 0, 1.0, -1.0)
        expected, r = expected + part, r - part
    torch.testing.assert_close(codec.quantize(values).flatten(), expected)
    assert len(codec.quantize(values).unique()) <= 2**levels


def signs(x, levels):
    return quantized("binary_residual", x, levels=levels).detach()


def test_each_further_sign_leaves_less():
    x = normal(20_000, 0.05)
    errors = [float((signs(x, L) - x).square().mean() / x.square().mean()) for L in (1, 2, 3, 4)]
    assert errors[0] == pytest.approx(1 - 2 / torch.pi, abs=0.01)  # one sign times the mean
    assert errors[1:] == sorted(errors[1:], reverse=True)
    assert errors[3] < 0.1 * errors[0]


def test_the_factors_learn_their_signs():
    codec, x = make("binary_residual", normal(50, 1.0)[None], levels=3, gradient="clipped")
    with torch.no_grad():
        codec.g[1] *= -1
    x = (x * 2).clone().requires_grad_()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    codec.quantize(x).backward(upstream)
    r = x.detach()
    for factor, gradient in zip(codec.g.detach(), codec.g.grad, strict=True):
        sign = torch.where(r >= 0, 1.0, -1.0)
        torch.testing.assert_close(gradient, (upstream * sign * factor.sign()).sum())
        r = r - factor.abs() * sign
    inside = x.detach().abs() <= codec.g.detach().abs().sum()
    assert 0 < int(inside.sum()) < 50
    assert torch.equal(x.grad, upstream * inside)
    assert [p is codec.g for p in codec.param_groups()["basis"]] == [True]
