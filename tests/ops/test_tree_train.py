"""The tree layer's training operator: inference's value, the relaxed product's gradient."""

from __future__ import annotations

import pytest
import torch

from halut.errors import HalutError
from halut.ops import ConvGeometry, forced, quantize, tree_layer, tree_matmul, tree_train

MAP = ConvGeometry((3, 3), (2, 1), (1, 0, 2, 1))
EMPTY = torch.empty(0, dtype=torch.uint8)
CASES = [  # x's shape, geometry, G, C, K, M
    ((40, 12), None, 1, 3, 16, 20),
    ((33, 12), None, 2, 3, 4, 5),
    ((2, 4, 7, 6), MAP, 1, 4, 16, 9),
    ((3, 4, 7, 6), MAP, 2, 2, 8, 3),
    ((2, 4, 5, 5), ConvGeometry((1, 1)), 1, 2, 64, 6),
    ((0, 4, 7, 6), MAP, 1, 4, 16, 9),
]


def draw(shape, geometry, G, C, K, M):
    """x, taps, thresholds, lut, (q, scale, offset), bias, tau."""
    torch.manual_seed(C + K)
    depth = K.bit_length() - 1
    window = 9 if geometry is MAP else 1
    lut = torch.randn(G, C, K, M)
    return (
        torch.randn(shape),
        torch.randint(0, shape[1] * window, (G * C * depth,)),
        torch.randn(G * C, K - 1) * 0.7,
        lut,
        quantize(lut, 8, "channel", torch.ones(())),
        torch.randn(G * M),
        torch.rand(G * C) + 0.4,
    )


def fused(x, taps, thresholds, lut, table, bias, tau, ste_mix, geometry, flips=False):
    q, scale, offset = table
    shift = offset.sum(1).reshape(-1) + bias
    return tree_train(x, taps, thresholds, lut, q, scale, shift, tau, ste_mix, geometry, flips)


def by_parts(x, taps, thresholds, lut, table, bias, tau, ste_mix, geometry, flips=False):
    q, scale, offset = table
    scaled = (lut - offset) / scale.view(q.shape[0], 1, 1, -1)
    y = tree_matmul(x, taps, thresholds, scaled, q.to(lut), tau, ste_mix, geometry, flips)
    y = y * scale + (offset.sum(1).reshape(-1) + bias)
    if geometry is None:
        return y
    size = geometry.output_size(*x.shape[2:])
    return y.view(x.shape[0], *size, y.shape[1]).permute(0, 3, 1, 2)


def outcome(product, arguments, geometry, ste_mix=0.7, flips=False):
    """y and the gradients of x, thresholds, lut, bias and tau."""
    x, taps, thresholds, lut, table, bias, tau = arguments
    leaves = [v.detach().requires_grad_() for v in (x, thresholds, lut, bias, tau)]
    x, thresholds, lut, bias, tau = leaves
    y = product(x, taps, thresholds, lut, table, bias, tau, ste_mix, geometry, flips)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("flips", [False, True])
def test_values_of_inference_and_gradients_of_the_parts(case, layout, flips):
    geometry = case[1]
    x, taps, thresholds, lut, table, bias, tau = draw(*case)
    if x.ndim == 4:
        x = x.contiguous(memory_format=layout)
    arguments = (x, taps, thresholds, lut, table, bias, tau)
    actual = outcome(fused, arguments, geometry, flips=flips)
    with forced("torch"):
        expected = outcome(by_parts, arguments, geometry, flips=flips)
    assert torch.equal(actual[0], expected[0])
    for ours, theirs in zip(actual[1:], expected[1:], strict=True):
        size = float(theirs.abs().max()) if theirs.numel() else 1.0
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * size)
    q, scale, offset = table
    shift = offset.sum(1).reshape(-1) + bias
    y = tree_layer(x, taps, thresholds, q, EMPTY, scale, shift, geometry=geometry)
    assert torch.equal(actual[0], y)
    assert actual[0].stride() == y.stride()


@pytest.mark.parametrize("case", CASES)
def test_passes_opcheck(case):
    x, taps, thresholds, lut, (q, scale, _), bias, tau = draw(*case)
    numbers = case[1].numbers if case[1] else []
    leaves = [v.requires_grad_() for v in (x, thresholds, lut, bias, tau)]
    x, thresholds, lut, bias, tau = leaves
    arguments = (x, taps, thresholds, lut, q, scale, bias, tau, 0.5, numbers)
    torch.library.opcheck(torch.ops.halut.tree_train.default, arguments)
    torch.library.opcheck(
        torch.ops.halut.quantize.default, (lut.detach(), 8, "layer", torch.ones(()))
    )


def test_nothing_but_the_bias_and_the_table_without_relaxation():
    arguments = draw(*CASES[2])
    actual, whole = (outcome(fused, arguments, MAP, ste_mix) for ste_mix in (0.0, 1.0))
    assert not any(actual[place].any() for place in (1, 2, 5))
    assert torch.equal(actual[3], whole[3])
    assert torch.equal(actual[4], whole[4])


def test_wrong_arguments_are_named():
    x, taps, thresholds, lut, (q, scale, _), bias, tau = draw(*CASES[0])
    with pytest.raises(HalutError, match="lut must be float32 and table int8"):
        tree_train(x, taps, thresholds, lut, lut, scale, bias, tau)
    with pytest.raises(HalutError, match="x must be float32, float16 or bfloat16"):
        tree_train(x.to(torch.int8), taps, thresholds, lut, q, scale, bias, tau)
    with pytest.raises(HalutError, match=r"bias must be float32 \[20\]"):
        tree_train(x, taps, thresholds, lut, q, scale, bias[1:], tau)
    with pytest.raises(HalutError, match="channel or layer, got codebook"):
        quantize(lut, 8, "codebook", torch.ones(()))
