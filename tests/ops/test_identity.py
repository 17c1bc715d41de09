"""The identity estimator adds the exact layer's input gradient, and changes no value."""

import pytest
import torch
import torch.nn.functional as F

from halut.errors import HalutError
from halut.ops import ConvGeometry, identity_gradient


@pytest.mark.parametrize("lead", [(7,), (2, 5)])
def test_linear(lead):
    torch.manual_seed(0)
    x = torch.randn(*lead, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    y = torch.randn(*lead, 4, dtype=torch.float64, requires_grad=True)
    grad = torch.randn_like(y)
    out = identity_gradient(y, x, weight, scale=0.25)
    assert torch.equal(out, y)
    out.backward(grad)
    assert torch.equal(y.grad, grad)
    torch.testing.assert_close(x.grad, 0.25 * torch.autograd.grad(F.linear(x, weight), x, grad)[0])
    assert weight.grad is None


@pytest.mark.parametrize(
    ("geometry", "groups"),
    [
        (ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1)), 1),
        (ConvGeometry((3, 3), (2, 2), (0, 1, 0, 1)), 2),
        (ConvGeometry((2, 3), (1, 2), (2, 0, 1, 3), (2, 1)), 4),
    ],
)
def test_convolution(geometry, groups):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, 4 // groups, *geometry.kernel_size, dtype=torch.float64)
    exact = F.conv2d(
        F.pad(x, geometry.padding),
        weight,
        stride=geometry.stride,
        dilation=geometry.dilation,
        groups=groups,
    )
    grad = torch.randn_like(exact)
    out = identity_gradient(torch.zeros_like(exact), x, weight, geometry)
    ours = torch.autograd.grad(out, x, grad)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(exact, x, grad)[0])


def test_narrow_inputs_keep_their_dtype_and_zero_scale_gives_none():
    x = torch.randn(3, 6, dtype=torch.bfloat16, requires_grad=True)
    weight, y = torch.randn(4, 6), torch.randn(3, 4, requires_grad=True)
    identity_gradient(y, x, weight).sum().backward()
    assert x.grad.dtype == torch.bfloat16
    expected = weight.sum(0).expand(3, 6).bfloat16()
    torch.testing.assert_close(x.grad, expected)
    x.grad = None
    identity_gradient(y, x, weight, scale=0.0).sum().backward()
    assert x.grad is None


def test_compiles_as_one_graph():
    x, weight = torch.randn(3, 6, requires_grad=True), torch.randn(4, 6)
    y = torch.randn(3, 4, requires_grad=True)
    compiled = torch.compile(
        lambda y, x: identity_gradient(y * 2, x, weight), fullgraph=True, backend="aot_eager"
    )
    compiled(y, x).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, 6))


def test_wrong_shapes_are_named():
    y, x, weight = torch.zeros(3, 4), torch.zeros(3, 6), torch.zeros(4, 5)
    with pytest.raises(HalutError, match="do not fit a linear layer"):
        identity_gradient(y, x, weight)
    with pytest.raises(HalutError, match="do not fit"):
        identity_gradient(y, x, weight, ConvGeometry((3, 3)))
