"""Quantized tables: half a step, exact integer sums, a zero point for free."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halut.errors import HalutError
from halut.ops import accumulate
from halut.ops.table_quantization import (
    SCALES,
    average_accumulate,
    clipping_rate,
    quantize_table,
)
from halut.prototypes.clip import best_clip


def table(G=2, C=3, K=8, M=5, seed=0, shift=3.0):
    generator = torch.Generator().manual_seed(seed)
    lut = torch.randn(G, C, K, M, generator=generator)
    # ranges that differ by codebook and output, and lie far from zero
    spread = torch.rand(G, C, 1, M, generator=generator) * 4 + 0.1
    return lut * spread + shift * torch.randn(G, C, 1, M, generator=generator)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_in_range_and_within_half_a_step(bits, scale):
    lut = table()
    quantized = quantize_table(lut, bits, scale)
    limit = 2 ** (bits - 1) - 1
    assert torch.equal(quantized.q, quantized.q.round())
    assert quantized.q.abs().max() == limit  # the range is used to its end
    error = (quantized.dequantize() - lut).abs()
    assert (error <= quantized.scale / 2 * (1 + 1e-4) + 1e-6).all()
    assert clipping_rate(lut, quantized) == 0.0


@pytest.mark.parametrize(
    ("scale", "shape", "integer"),
    [
        ("layer", (1, 1, 1, 1), True),
        ("channel", (2, 1, 1, 5), True),
        ("codebook", (2, 3, 1, 1), False),
    ],
)
def test_one_scale_per(scale, shape, integer):
    quantized = quantize_table(table(), 8, scale)
    assert quantized.scale.shape == shape
    assert quantized.integer_sums is integer
    limit = 127
    reach = (table().amax(2, keepdim=True) - table().amin(2, keepdim=True)) / 2
    for place in torch.cartesian_prod(*[torch.arange(n) for n in shape]).view(-1, 4):
        part = reach[tuple(slice(int(i), int(i) + 1) if n > 1 else slice(None)
                           for i, n in zip(place, shape, strict=True))]  # fmt: skip
        torch.testing.assert_close(quantized.scale[tuple(place)], part.max() / limit)


def test_a_finer_scale_is_never_worse_and_more_bits_are_better():
    lut = table()
    error = {
        (scale, bits): float((quantize_table(lut, bits, scale).dequantize() - lut).square().mean())
        for scale in SCALES
        for bits in (4, 8)
    }
    assert error["channel", 8] < error["layer", 8]
    assert error["codebook", 8] < error["layer", 8]
    for scale in SCALES:
        assert 150 < error[scale, 4] / error[scale, 8] < 600  # (127 / 7)^2 = 329


def test_an_asymmetric_table_costs_no_range():
    lut = table(shift=0.0)
    moved = lut + 1000 * torch.arange(5.0)  # float32 keeps 2^-13 of the last digits here
    plain, shifted = quantize_table(lut, 8), quantize_table(moved, 8)
    torch.testing.assert_close(shifted.scale, plain.scale, rtol=1e-3, atol=1e-4)
    assert (shifted.q - plain.q).abs().max() <= 1


@pytest.mark.parametrize("scale", ["layer", "channel"])
def test_integer_sums_with_the_zero_point_in_the_bias(scale):
    lut = table(C=40)
    quantized = quantize_table(lut, 8, scale)
    codes = torch.randint(0, 8, (50, 2 * 40), generator=torch.Generator().manual_seed(1))
    codes = codes.to(torch.uint8)
    sums = accumulate(codes, quantized.q.to(torch.int8))
    assert sums.dtype == torch.int32
    assert torch.equal(sums.float(), accumulate(codes, quantized.q))  # floats hold them exactly
    y = sums * quantized.output_scale() + quantized.folded_bias()
    expected = accumulate(codes, quantized.dequantize().double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)
    exact = accumulate(codes, lut.double())
    bound = 40 * quantized.output_scale().double() / 2
    assert ((y - exact).abs() <= bound * 1.001 + 1e-4).all()


def test_clipping_trades_range_for_resolution():
    # 4 bits spend their levels best on +-2.6 standard deviations of a normal distribution.
    lut = torch.randn(1, 8, 256, 4, generator=torch.Generator().manual_seed(0))
    clip = best_clip(lut, 4)
    assert 0.6 < clip < 0.9  # of a range of about 3.2
    clipped, whole = quantize_table(lut, 4, "channel", clip), quantize_table(lut, 4)
    error = [(t.dequantize() - lut).square().sum() for t in (clipped, whole)]
    assert error[0] < error[1]
    rate = clipping_rate(lut, clipped)
    beyond = (clipped.dequantize() - lut).abs() > clipped.scale / 2 * 1.001
    assert rate == pytest.approx(float(beyond.float().mean()), abs=1e-6)
    assert 0 < rate < 0.2


def test_a_constant_table_is_exact():
    lut = torch.full((1, 2, 4, 3), 0.7)
    quantized = quantize_table(lut, 8)
    assert torch.equal(quantized.dequantize(), lut)
    assert torch.equal(quantized.q, torch.zeros_like(lut))


def test_the_table_is_detached():
    lut = table().requires_grad_()
    quantized = quantize_table(lut, 8)
    assert not quantized.q.requires_grad
    assert not quantized.scale.requires_grad
    assert not quantized.offset.requires_grad


@pytest.mark.parametrize(
    ("bits", "scale", "message"),
    [
        (1, "layer", r"halut\.bits must be in 2\.\.8 or null for float tables, got 1"),
        (9, "layer", "got 9"),
        (8, "row", "unknown halut.scale 'row'; choose one of: layer, channel, codebook"),
    ],
)
def test_bad_options(bits, scale, message):
    with pytest.raises(HalutError, match=message):
        quantize_table(table(), bits, scale)


def slow_average(codes, lut, group):
    """Loops: the tree of rounded averages of one run after the other, in Python integers."""
    N, C = codes.shape
    y = torch.zeros(N, lut.shape[2])
    for n in range(N):
        for m in range(lut.shape[2]):
            for first in range(0, C, group):
                run = [int(lut[c, codes[n, c], m]) for c in range(first, first + group)]
                while len(run) > 1:
                    run = [(a + b + 1) // 2 for a, b in zip(run[::2], run[1::2], strict=True)]
                y[n, m] += run[0] * group
    return y


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 3), st.integers(0, 99))
def test_averages_against_loops(group, runs, seed):
    generator = torch.Generator().manual_seed(seed)
    C = group * runs
    lut = torch.randint(-128, 128, (C, 4, 3), generator=generator).float()
    codes = torch.randint(0, 4, (5, C), generator=generator)
    assert torch.equal(average_accumulate(codes, lut, group), slow_average(codes, lut, group))


@pytest.mark.parametrize("group", [2, 4, 16])
def test_the_bias_of_averages_is_as_stated(group):
    generator = torch.Generator().manual_seed(group)
    C = 32
    lut = torch.randint(-128, 128, (C, 16, 64), generator=generator).float()
    codes = torch.randint(0, 16, (4000, C), generator=generator).to(torch.uint8)
    exact = accumulate(codes, lut[None])
    error = (average_accumulate(codes, lut, group) - exact).mean()
    stated = C * (group.bit_length() - 1) / 4
    assert float(error) == pytest.approx(stated, rel=0.05)
    assert stated > 0


@pytest.mark.parametrize("group", [0, 3, 64])
def test_groups_that_do_not_fit(group):
    with pytest.raises(HalutError, match=f"power of two dividing C=32, got {group}"):
        average_accumulate(torch.zeros(1, 32), torch.zeros(32, 4, 2), group)
