"""Codecs against torchao's, where it defines the same format.

They coincide, to the bit, in
- integers: torchao's affine quantization at our powers of two, zero point 0;
- minifloats: its floats of any exponent and mantissa, which have the same bias, subnormals, ties
  to even and saturation, and like ours neither infinity nor NaN;
- block floating point and MXINT8: affine quantization of blocks at the shared power of two. torchao
  has no MXINT8; the power of two is the one its MX formats of other elements share.

They differ, and the tests say how, in
- ties between floats without a mantissa, where no digit is even: IEEE 754 and ours take the larger
  magnitude, torchao the even code;
- the sign of zero: ours has one zero, torchao's floats have two codes;
- float8_e4m3fn, whose highest code is NaN: it saturates at 448, minifloat_ieee(8, 4) at 480;
- block minifloats: MX takes floor(log2 max) - emax for exponent, so that a block's maximum may
  saturate; maths.md wants it in range: one more where it would not be;
- magnitudes below 2^-126, where torchao divides by 2^-126 and multiplies by less.
It has no minifloats without an implicit one, no powers of two, no binary codes.
"""

from __future__ import annotations

import pytest
import torch

from tests.codecs.number_formats import make

pytest.importorskip("torchao", reason="pip install 'halut[torchao]'")

from torchao.prototype.custom_fp_utils import _f32_to_floatx_unpacked, _floatx_unpacked_to_f32
from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx
from torchao.quantization.quant_primitives import (
    _fake_quantize_affine,
    dequantize_affine,
    quantize_affine,
)


def drawn(step: float, rows: int = 8, D: int = 64, seed: int = 0) -> torch.Tensor:
    """[rows, D]: random values of many magnitudes, ties of `step`, zeros of both signs, tiny and
    huge values, blocks that are constant, powers of two or zero."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, D, generator=g) * torch.exp2(torch.randint(-6, 7, (rows, 1), generator=g))
    x[1] = (torch.arange(D) - D // 2 + 0.5) * step
    x[2] = (torch.arange(D) - D // 2) * step / 2
    x[3, :8] = torch.tensor([0.0, -0.0, 2.0**-100, -(2.0**-100), 1e30, -1e30, 127.5, -128.5])
    x[4, :32], x[4, 32:] = 0.7, 0.0
    x[5] = torch.exp2(torch.arange(D) % 13 - 6.0) * torch.tensor([1.0, -1.0]).repeat(D // 2)
    x[6, ::3] = -x[6, ::3].abs().max()
    return x


# -- integers -------------------------------------------------------------------------------------

DTYPES = {2: torch.int8, 4: torch.int8, 7: torch.int8, 8: torch.int8, 12: torch.int16}


def assert_affine(codec, x, block, limit: int | None = None):
    """`codec` is torchao's affine quantization of x at its own scales, shared by `block`."""
    dtype, high = DTYPES[codec.width], 2 ** (codec.width - 1) - 1
    low = -high - 1 if limit is None else -limit
    coded = codec.encode(x)
    scale = torch.exp2(coded.scales.double()).float()
    coding = (block, scale, torch.zeros_like(scale, dtype=torch.int32), dtype, low, high)
    codes = quantize_affine(x, *coding)
    assert torch.equal(coded.codes, codes.int())
    assert codes.unique().numel() > 2
    values = dequantize_affine(codes, *coding)
    assert torch.equal(codec.decode(coded), values)
    assert torch.equal(codec.quantize(x), values)
    assert torch.equal(_fake_quantize_affine(x, *coding), values)


@pytest.mark.parametrize("width", DTYPES)
@pytest.mark.parametrize("fraction", [-2, 0, 3])
def test_integers_of_a_given_fraction(width, fraction):
    codec, x = make("integer", drawn(2.0**-fraction), width=width, fraction=fraction)
    assert_affine(codec, x, x.shape)


@pytest.mark.parametrize("width", DTYPES)
@pytest.mark.parametrize("calibrate", ["max", "mse"])
@pytest.mark.parametrize(
    ("per", "block"), [("tensor", (8, 1, 64)), ("channel", (1, 1, 64)), ("block", (1, 1, 16))]
)
def test_integers_of_calibrated_fractions(width, calibrate, per, block):
    value = drawn(0.25).clamp(-300, 300)  # one huge value leaves a tensor nothing but zeros
    codec, x = make("integer", value, width=width, per=per, calibrate=calibrate)
    assert_affine(codec, x, block)


@pytest.mark.parametrize(
    ("per", "block"), [("tensor", (8, 1, 64)), ("channel", (8, 1, 1)), ("block", (1, 1, 16))]
)
def test_integer_activations(per, block):
    value = drawn(0.25).clamp(-300, 300)
    codec, x = make("integer", value, role="activation", width=8, per=per)
    beyond = x * 3 if per != "block" else x  # calibrated ones saturate
    assert_affine(codec, beyond, block)


@pytest.mark.parametrize("width", DTYPES)
def test_block_floating_point_has_symmetric_integers(width):
    codec, x = make("block_fp", drawn(0.25), width=width)
    assert_affine(codec, x, (1, 1, 16), limit=2 ** (width - 1) - 1)


# -- minifloats -----------------------------------------------------------------------------------

FIELDS = [(e, m) for e in range(1, 8) for m in range(1, 8 - e)]


def every_float(e: int, m: int) -> torch.Tensor:
    return _floatx_unpacked_to_f32(torch.arange(2 ** (1 + e + m), dtype=torch.uint8), e, m)


def around(values: torch.Tensor) -> torch.Tensor:
    """All the values, the midpoints between them, their neighbors, and what lies beyond."""
    x = values.unique()
    x = torch.cat([x, (x[1:] + x[:-1]) / 2])
    inf = torch.tensor(float("inf"))
    x = torch.cat([x, torch.nextafter(x, inf), torch.nextafter(x, -inf)])
    beyond = x.abs().max() * torch.tensor([1.01, 1.25, 1.5, 4.0])
    return torch.cat([x, beyond, -beyond, torch.tensor([0.0, -0.0, 1e-30]), torch.randn(2000)])


@pytest.mark.parametrize(("e", "m"), FIELDS)
def test_minifloats(e, m):
    values = every_float(e, m)
    x = around(values)
    codec, rows = make("minifloat_ieee", x[None], width=1 + e + m, exponent=e)
    codes = _f32_to_floatx_unpacked(x, e, m)
    actual = codec.encode(rows).codes.flatten()
    negative_zero = codes.int() == 2 ** (e + m)
    assert negative_zero.any()
    assert torch.equal(actual, torch.where(negative_zero, 0, codes.int()))
    assert torch.equal(codec.quantize(rows).flatten(), values[codes.long()])


@pytest.mark.parametrize("e", range(2, 8))
def test_ties_of_minifloats_without_a_mantissa(e):
    values = every_float(e, 0)
    x = around(values)
    codec, rows = make("minifloat_ieee", x[None], width=1 + e, exponent=e)
    ours, theirs = codec.quantize(rows).flatten(), values[_f32_to_floatx_unpacked(x, e, 0).long()]
    normal = values[values > 0].sort().values
    ties = torch.isin(x.abs(), 1.5 * normal[:-1])
    assert torch.equal(ours[~ties], theirs[~ties])
    assert torch.equal(ours[ties], x[ties] / 0.75)
    assert set((theirs[ties] * 1.5 / x[ties]).tolist()) == {1.0, 2.0}


def test_float8_saturates_where_it_has_its_nan():
    codec, _ = make("minifloat_ieee", torch.ones(1, 4))
    x = torch.tensor([[[448.0, 463.9, 464.1, 480.0, 1000.0]]])
    assert codec.quantize(x).flatten().tolist() == [448, 448, 480, 480, 480]
    block = torch.full((1, 32), 64.0)
    block[0, 0] = 250.0
    scale, data = to_mx(block, torch.float8_e4m3fn, 32)
    theirs = to_dtype(data, scale, torch.float8_e4m3fn, 32, torch.float32)
    assert theirs.max() == 224  # 448 * 2^(7 - 8)
    codec, rows = make("block_minifloat", block, width=8, exponent=4, block=32)
    assert (
        codec.quantize(rows).max() == 256
    )  # 480 * 2^(7 - 8) is not enough: steps are twice as wide


# -- shared exponents -----------------------------------------------------------------------------

MX = {
    "fp4": (torch.float4_e2m1fn_x2, 2, 1),
    "fp6_e2m3": ("fp6_e2m3", 2, 3),
    "fp6_e3m2": ("fp6_e3m2", 3, 2),
}


def blocks(seed: int = 0) -> torch.Tensor:
    """[64, 64] of magnitudes from 2^-90 to 2^90: block maxima at, below and beyond every limit."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 64, generator=g)
    x *= torch.exp2(torch.randint(-90, 90, (64, 2), generator=g).repeat_interleave(32, 1))
    return torch.cat([x, drawn(0.25, seed=seed)])


def shared(x: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """MX's exponents [rows, 2] and values, blocks of 32."""
    dtype = MX[kind][0]
    scale, data = to_mx(x, dtype, 32)
    return scale.view(torch.uint8).int() - 127, to_dtype(data, scale, dtype, 32, torch.float32)


@pytest.mark.parametrize("kind", MX)
def test_block_minifloats_are_mx_unless_the_maximum_would_saturate(kind):
    _, e, m = MX[kind]
    value = blocks()
    codec, x = make("block_minifloat", value, width=1 + e + m, exponent=e, block=32)
    S, values = shared(value, kind)
    ours, actual = codec.scales(x)[:, 0], codec.quantize(x)[:, 0]
    top = every_float(e, m).max()
    saturates = value.view(-1, 2, 32).abs().amax(-1) > top * torch.exp2(S.double())
    assert 0.1 < saturates.float().mean() < 0.9
    assert torch.equal(ours, S + saturates.int())
    same = ~saturates.repeat_interleave(32, 1)
    assert torch.equal(actual[same], values[same])

    def lost(q: torch.Tensor) -> torch.Tensor:
        peaks = value.view(-1, 2, 32).abs()
        at = peaks.argmax(-1, keepdim=True)
        return (q.view(-1, 2, 32).abs().gather(-1, at) / peaks.gather(-1, at) - 1).abs()[saturates]

    half_a_step = 2.0 ** -(m + 1) / (2 - 2.0**-m)  # at the highest magnitude, relative to it
    assert lost(actual).max() <= half_a_step
    assert lost(values).max() > half_a_step


def test_mxint8_is_affine_at_mx_s_exponents():
    value = blocks()
    codec, x = make("mxint8", value)
    S, _ = shared(value, "fp4")
    zeros = value.view(-1, 2, 32).abs().amax(-1) == 0
    ours = codec.scales(x)[:, 0]
    assert (S[zeros] == -127).all()
    assert (ours[zeros] == -127).all()
    assert zeros.any()
    # MX: floor(log2 max) - emax, emax = 2 for fp4; MXINT8's 64 of its steps, 2^6, are one.
    assert torch.equal(ours[~zeros] + 6, S[~zeros] + 2)
    step = torch.exp2((S - 4).clamp(min=-126).double()).float()
    zero = torch.zeros_like(step, dtype=torch.int32)
    codes = quantize_affine(value, (1, 32), step, zero, torch.int8, -127, 127)
    assert torch.equal(codec.encode(x).codes[:, 0], codes.int())
    values = dequantize_affine(codes, (1, 32), step, zero, torch.int8, -127, 127)
    assert torch.equal(codec.quantize(x)[:, 0], values)
