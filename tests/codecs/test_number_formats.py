"""Number formats against their definitions, torch's own small floats, and golden vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from halut.ops import mxint8_dequantize
from tests.codecs.number_formats import (
    denorm,
    every_value,
    ieee,
    make,
    nearest,
    normal,
    quantized,
    sqnr,
)

# -- integers -------------------------------------------------------------------------------------


def test_integers_golden():
    x = [0.03125, 0.09375, 100.0, -100.0]
    assert quantized("integer", x, width=8, fraction=4).tolist() == [0, 0.125, 7.9375, -8]


@pytest.mark.parametrize(("width", "decibel"), [(4, 15.0), (6, 27.0), (8, 39.0), (16, 87.1)])
def test_calibrated_fraction_golden(width, decibel):
    assert sqnr("integer", normal(), width=width) == pytest.approx(decibel, abs=0.15)
    assert sqnr("integer", normal(), width=width, fraction=4) == pytest.approx(8.9, abs=0.1)


def test_the_fraction_of_least_error():
    assert sqnr("integer", normal(), width=4, calibrate="mse") > 18.5
    for per in ("tensor", "channel", "block"):
        x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) ** 3
        errors = {
            rule: (quantized("integer", x, width=4, per=per, calibrate=rule) - x).square().sum()
            for rule in ("max", "mse")
        }
        assert errors["mse"] < errors["max"]


@pytest.mark.parametrize("width", [2, 5, 8, 24, 25, 31, 32])
@pytest.mark.parametrize("fraction", [-3, 0, 7])
def test_integers_are_pythons(width, fraction):
    x = normal(500, 2.0 ** (width - 2 - fraction))
    low, high = -(2 ** (width - 1)), 2 ** (width - 1) - 1
    expected = [min(max(round(v * 2.0**fraction), low), high) for v in x.double().tolist()]
    codec, values = make("integer", x[None], width=width, fraction=fraction)
    assert codec.encode(values).codes.flatten().tolist() == expected
    q = [np.float32(code) * 2.0**-fraction for code in expected]
    assert codec.quantize(values).flatten().tolist() == pytest.approx(q, rel=0)


def test_granularity():
    x = torch.tensor([[1.0, 0.9, 0.011, 0.009], [100.0, 90.0, 1.1, 0.9]])
    scale = {per: quantized("integer", x, width=4, per=per, block=2) for per in PER}
    assert scale["tensor"].tolist() == [[0, 0, 0, 0], [96, 96, 0, 0]]
    assert scale["channel"].tolist() == [[1, 1, 0, 0], [96, 96, 0, 0]]
    assert scale["block"][1].tolist() == [96, 96, 1, 1]  # steps of 16 and of a quarter
    assert scale["block"][0, 2:].tolist() == pytest.approx([0.011, 0.009], abs=0.002)
    calibrated = quantized("integer", x.T.contiguous(), role="activation", width=4, per="channel")
    assert torch.equal(calibrated, quantized("integer", x, width=4, per="channel").T)


PER = ("tensor", "channel", "block")


def test_calibrated_activations_stay_on_their_scale():
    codec, x = make("integer", normal(64).view(4, 16), role="activation", width=8)
    small = codec.quantize(x / 50)
    step = 2.0 ** float(codec.exponent)
    assert torch.equal(small, torch.round(x / 50 / step) * step)
    assert float(codec.quantize(x * 50).max()) == 127 * step


# -- minifloats -----------------------------------------------------------------------------------


def hard_values(dtype):
    """Every number of a torch float in its range, the midpoints between them, and between those."""
    bits = torch.arange(2 ** (8 * dtype.itemsize), dtype=torch.int32)
    kind = torch.uint8 if dtype.itemsize == 1 else torch.uint16
    every = bits.to(kind).view(dtype).float()
    every = every[every.isfinite()].unique()
    for _ in range(2):
        every = torch.cat([every, (every[1:] + every[:-1]) / 2]).unique()
    return torch.cat([every, normal(5000, 1.0), normal(5000, 0.01)])


@pytest.mark.parametrize(
    ("dtype", "width", "exponent"),
    [(torch.float8_e4m3fn, 8, 4), (torch.float8_e5m2, 8, 5), (torch.float16, 16, 5)],
)
def test_minifloats_are_torchs(dtype, width, exponent):
    x = hard_values(dtype)
    x = x[x.abs() <= torch.finfo(dtype).max]
    assert len(x) > 10_000
    q = quantized("minifloat_ieee", x, width=width, exponent=exponent)
    assert torch.equal(q, x.to(dtype).float())


def test_beyond_torchs_range_they_go_on_and_then_saturate():
    x = [448.0, 464.0, 465.0, 480.0, 1e6, math.inf, -math.inf]
    assert quantized("minifloat_ieee", x).tolist() == [448, 448, 480, 480, 480, 480, -480]


CASES = [("minifloat_ieee", w, e) for w in (2, 3, 5, 6) for e in range(1, w)]
CASES += [("minifloat_denorm", w, e) for w in (3, 5, 6) for e in range(1, w - 1)]


@pytest.mark.parametrize(("name", "width", "exponent"), CASES)
def test_minifloats_are_the_nearest_of_all_codes(name, width, exponent):
    codec, _ = make(name, torch.zeros(1, 2**width), width=width, exponent=exponent)
    m = width - 1 - exponent
    value = ieee if name == "minifloat_ieee" else denorm
    fake_quantize = {
        value(sign, field, mantissa, exponent, m)
        for sign in (-1, 1)
        for field in range(2**exponent)
        for mantissa in range(2**m)
    }
    assert {v for v, _ in every_value(codec)} == fake_quantize
    top = max(fake_quantize)
    x = torch.linspace(-1.3 * top, 1.3 * top, 601)
    x = torch.cat([x, x / 16, torch.tensor(sorted(fake_quantize))])
    q = quantized(name, x, width=width, exponent=exponent)
    for values, actual in zip(x.tolist(), q.tolist(), strict=True):
        assert actual in nearest(values, fake_quantize)


def test_what_the_missing_one_costs():
    """The highest power of two has no code; those below are one exponent up; a bit is lost."""
    powers = torch.tensor([2.0**k for k in range(-6, 9)])
    q = quantized("minifloat_denorm", powers, width=8, exponent=4)
    assert torch.equal(q[:-1], powers[:-1])
    assert float(q[-1]) == (1 - 2**-3) * 256
    assert torch.equal(quantized("minifloat_ieee", powers), powers)
    x = torch.rand(2000, generator=torch.Generator().manual_seed(0)) * 100 + 1
    with_bit = quantized("minifloat_denorm", x, width=9, exponent=4)
    assert torch.equal(with_bit, quantized("minifloat_ieee", x, width=8, exponent=4))


def test_a_given_bias_moves_the_range():
    x = normal(1000)
    for name in ("minifloat_ieee", "minifloat_denorm"):
        moved = quantized(name, x, exponent_bias=11)
        assert torch.equal(moved, quantized(name, x * 16) / 16)


# -- logarithms -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "b"), [(2, 1), (4, 5), (5, 3), (8, 60)])
def test_log_by_its_definition(width, b):
    x = torch.cat([normal(3000, 1.0), normal(500, 1e-3), torch.tensor([0.0])])
    q = quantized("log", x, width=width, exponent_bias=b)
    top = 2 ** (width - 1) - 1 - b
    for value, actual in zip(x.tolist(), q.tolist(), strict=True):
        k = min(max(round(math.log2(abs(value))), -b), top) if value else None
        expected = 0.0 if k is None else math.copysign(2.0**k, value)
        if expected == -(2.0**-b):  # the code that zero has
            expected = 0.0
        assert actual == expected


def test_log_has_a_ceiling():
    assert sqnr("log", normal(), width=8) == pytest.approx(13.8, abs=0.8)
    assert sqnr("log", normal(), width=8) <= sqnr("log", normal(), width=5) + 0.2


# -- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [3, 8, 12])
def test_block_floating_point_by_its_definition(width):
    x = (normal(3 * 37, 1.0) ** 5).view(3, 37)
    q = quantized("block_fp", x, width=width, block=16)
    limit = 2 ** (width - 1) - 1
    for row, actual in zip(x.double().tolist(), q.tolist(), strict=True):
        for start in range(0, 37, 16):
            part = row[start : start + 16]
            step = 2.0 ** (math.floor(math.log2(max(map(abs, part)))) - (width - 2))
            expected = [min(max(round(v / step), -limit), limit) * step for v in part]
            assert actual[start : start + 16] == expected


def test_blocks_lie_along_the_inputs():
    x = torch.ones(2, 32)
    x[0, :16] = 1000.0
    q = quantized("block_fp", x * 0.999, width=4, block=16)
    assert (q[0, 16:] == q[1, 16:]).all()
    assert (q[0, :16] > 800).all()


def test_mxint8_golden():
    x = torch.zeros(32)
    x[:2] = torch.tensor([1.0, 0.3])
    q = quantized("mxint8", x)
    assert q[:3].tolist() == [1.0, 0.296875, 0.0]
    assert sqnr("mxint8", normal()) > 40


def test_mxint8_is_stored_as_the_standard_defines():
    codec, x = make("mxint8", (normal(70, 3.0) ** 3).view(1, 70))
    packed = codec.export(x)
    assert packed["scales"].dtype == torch.uint8
    assert packed["scales"].shape == (1, 1, 3)
    mantissa = packed["codes"].view(torch.int8)
    values = mxint8_dequantize(mantissa[None, None], packed["scales"])
    assert torch.equal(values, codec.quantize(x))
    assert codec.bits() == 70 * 8 + 3 * 8


def test_block_minifloat_and_block_log():
    assert sqnr("block_minifloat", normal(), width=8, exponent=4) > 30
    assert sqnr("block_log", normal(), width=8) == pytest.approx(13.8, abs=0.8)
    for scale in (1e-9, 1.0, 1e9):
        x = (normal(4 * 64, 1.0) * scale).view(4, 64)
        top = x.view(4, 4, 16).abs().amax(-1)
        q = quantized("block_minifloat", x, width=6, exponent=3)
        actual = q.view(4, 4, 16).abs().amax(-1)
        assert ((actual - top).abs() <= top * 2**-3).all()  # in range: half a step, 2 mantissa bits
        powers = quantized("block_log", x, width=4).view(4, 4, 16).abs().amax(-1)
        assert torch.equal(powers, torch.exp2(torch.log2(top).round()))
