"""ABC-Net against its definition."""

from __future__ import annotations

import pytest
import torch

from halut.codecs import Layout, codecs
from halut.codecs.sign_bases import midpoints
from tests.codecs.number_formats import make, normal

X = torch.tensor([-1.0, -0.5, 0.25, 1.25])


def given(beta, v, shape=(1, 4), **options):
    """The codec of activations with those factors and shifts."""
    kind = codecs["abcnet"]
    codec = kind(Layout("activation", shape), kind.Config(width=len(v), **options))
    with torch.no_grad():
        codec.beta.copy_(torch.tensor(beta))
        codec.v.copy_(torch.tensor(v))
    return codec


def bases(x, M):
    """B [K, M] and alpha [M] of values x [K] by their definition."""
    x = x.double()
    mean, std = x.mean(), x.std(correction=0)
    u = [0.0] if M == 1 else [-1 + 2 * i / (M - 1) for i in range(M)]
    B = torch.stack([torch.where(x - mean + shift * std >= 0, 1.0, -1.0) for shift in u], 1)
    return B.double(), torch.linalg.lstsq(B.double(), x[:, None]).solution[:, 0]


def relative(x, q):
    return float((x - q).square().sum() / x.square().sum())


def test_golden():
    codec, x = make("abcnet", X[None])
    alpha = codec.scales(x)[0, 0]
    torch.testing.assert_close(alpha, torch.tensor([0.4375, 0.375, 0.3125]))
    assert relative(X, codec.quantize(x).flatten()) == pytest.approx(0.0109, abs=5e-5)
    assert codec.encode(x).codes.flatten().tolist() == [0b000, 0b100, 0b110, 0b111]


@pytest.mark.parametrize(
    ("M", "error"), [(1, 0.367), (2, 0.260), (3, 0.119), (4, 0.088), (5, 0.078)]
)
def test_error_on_a_normal(M, error):
    x = normal(sigma=1.0)[None]
    codec, values = make("abcnet", x, width=M)
    assert relative(x[0], codec.quantize(values).flatten()) == pytest.approx(error, abs=0.004)


@pytest.mark.parametrize("per", ["tensor", "channel"])
@pytest.mark.parametrize("M", [1, 2, 3, 5, 8])
def test_weights_by_their_definition(per, M):
    x = normal(3 * 80, 0.05).view(3, 80) + torch.tensor([[0.0], [0.02], [-0.5]])
    codec, values = make("abcnet", x, width=M, per=per)
    q = codec.quantize(values).view(3, 80)
    for actual, row in zip(q, x, strict=True) if per == "channel" else [(q.flatten(), x.flatten())]:
        B, alpha = bases(row, M)
        torch.testing.assert_close(actual.double(), B @ alpha, rtol=1e-4, atol=1e-6)
    assert codec.scale_count() == (3 * M if per == "channel" else M)
    assert codec.bits() == x.numel() * M + 32 * codec.scale_count()


def test_alpha_follows_the_weight_at_every_step():
    codec, x = make("abcnet", normal(60, 1.0).view(2, 30))
    for scale in (1.0, 3.0, 0.1):
        torch.testing.assert_close(codec.quantize(x * scale), codec.quantize(x) * scale)
    assert codec.state_dict() == {}


@pytest.mark.parametrize(("gradient", "clipped"), [("auto", False), ("clipped", True)])
def test_the_gradient_of_weights_is_that_of_every_base(gradient, clipped):
    """dL/dW = sum_m alpha_m dL/dB_m where every base has a product of its own."""
    x = normal(60, 1.0).view(2, 30)
    codec, values = make("abcnet", x, gradient=gradient)
    upstream = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    values.requires_grad_()
    q = codec.quantize(values)
    q.backward(upstream)
    alpha = codec.scales(values.detach())[:, 0]
    expected = sum(a.view(2, 1, 1) * upstream for a in alpha.unbind(1))
    if clipped:
        low, high = q.amin((1, 2), keepdim=True), q.amax((1, 2), keepdim=True)
        inside = (values >= low) & (values <= high)
        assert 0 < int(inside.sum()) < 60
        expected = expected * inside
    torch.testing.assert_close(values.grad, expected)


def test_activations_and_their_gradients_by_definition():
    beta, v = [0.6, 0.3, 0.2], [0.9, 0.4, -0.7]
    codec = given(beta, v, (1, 50))
    x = (normal(200, 1.0).view(4, 1, 50)).requires_grad_()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    q = codec.quantize(x)
    q.backward(upstream)
    every, grad_x = torch.zeros_like(x), torch.zeros_like(x)
    for n in range(3):
        h = (x.detach() + v[n]).clamp(0, 1)
        A = 2 * (h >= 0.5).float() - 1
        inside = ((x.detach() + v[n]) >= 0) & ((x.detach() + v[n]) <= 1)
        every = every + beta[n] * A
        grad_x = grad_x + beta[n] * inside * upstream
        torch.testing.assert_close(codec.beta.grad[n], (upstream * A).sum())
        torch.testing.assert_close(codec.v.grad[n], beta[n] * (upstream * inside).sum())
    torch.testing.assert_close(q, every)
    torch.testing.assert_close(x.grad, grad_x)
    assert 0 < int((grad_x == 0).sum()) < x.numel()
    roles = {role: [id(p) for p in ps] for role, ps in codec.param_groups().items()}
    assert roles == {"basis": [id(codec.beta)], "thresholds": [id(codec.v)]}


def test_inputs_without_a_gradient_teach_the_bases_too():
    codec = given([0.5, 0.5], [0.2, 0.8])
    codec.quantize(torch.zeros(3, 1, 4)).sum().backward()
    assert codec.beta.grad.tolist() == [-12, 12]
    assert codec.v.grad.tolist() == [6, 6]


@pytest.mark.parametrize(("N", "error"), [(1, 0.3634), (2, 0.1902), (3, 0.1175), (5, 0.0580)])
def test_the_start_is_a_quantizer_of_least_error(N, error):
    """Of the N + 1 levels of a normal, the errors of the optimal quantizer (Max 1960)."""
    codec, x = make("abcnet", normal(20_000, 1.0)[:, None], role="activation", width=N)
    assert relative(x, codec.quantize(x).detach()) == pytest.approx(error, abs=0.01)
    torch.testing.assert_close(0.5 - codec.v, midpoints(codec.beta))
    assert bool((codec.beta > 0).all())


def test_pruned_weights_have_no_part_in_the_bases():
    x = normal(400, 1.0)[None]
    codec, values = make("chain", x, codecs=["prune", "abcnet"], sparsity=0.5, width=3)
    stays = codec.mask.flatten()
    B, alpha = bases(x[0][stays], 3)
    actual = codec.quantize(values).flatten()
    torch.testing.assert_close(actual[stays].double(), B @ alpha, rtol=1e-4, atol=1e-6)
    assert actual[~stays].eq(0).all()
    values.requires_grad_()
    codec.quantize(values).sum().backward()
    torch.testing.assert_close(values.grad.flatten()[stays], torch.full((200,), float(alpha.sum())))
    assert values.grad.flatten()[~stays].eq(0).all()
