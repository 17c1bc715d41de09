"""Every byte with every scale: m / 64 * 2^(e - 127), in every type an answer can have."""

from __future__ import annotations

import pytest
import torch

from halut.errors import HalutError
from halut.ops import cpu, forced, mxint8_dequantize
from halut.ops.integer.mxint8 import DTYPES
from tests.oracles.integer import mxint8_dequantize_reference

M = torch.arange(-128, 128).to(torch.int8)
E = torch.arange(256).to(torch.uint8)
CODES = M.expand(256, 256).contiguous()  # rows of 8 blocks, all of one scale
SCALES = E[:, None].expand(256, 8).contiguous()


def answers(codes, scales, dtype):
    """Every implementation's, on every level."""
    with forced("torch"):
        yield "torch", mxint8_dequantize(codes, scales, dtype)
    for level in cpu.cpu_capabilities():
        with cpu.use_cpu_capability(level):
            yield level, mxint8_dequantize(codes, scales, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_mantissa_and_every_exponent(dtype):
    exact = M.double() / 64 * torch.exp2(E.double() - 127)[:, None]
    expected = exact.to(dtype)
    expected[255] = float("nan")
    oracle = mxint8_dequantize_reference(CODES, SCALES, dtype)
    assert torch.equal(oracle[:255], expected[:255])
    for name, actual in answers(CODES, SCALES, dtype):
        assert actual.dtype == dtype
        assert torch.equal(actual[:255], expected[:255]), name
        assert actual[255].isnan().all(), name


def test_the_extremes_are_where_they_should_be():
    values = mxint8_dequantize(CODES, SCALES).double()
    assert values[0].abs()[M != 0].min() == 2.0**-133  # subnormal in float32 and bfloat16
    assert (values[254].isinf() == (M == -128)).all()
    assert values[254, M == 127] == 127 / 64 * 2.0**127
    for dtype, lowest, beyond in (
        (torch.float16, 2.0**-24, 127 + 15),
        (torch.bfloat16, 2.0**-133, 254),
    ):
        narrow = mxint8_dequantize(CODES, SCALES, dtype).double()[:255]
        size = narrow.abs()
        assert size[size > 0].min() == lowest
        assert narrow[:beyond].isfinite().all()
        assert narrow[beyond].isinf().any()
    codes = torch.tensor([[3, 5, -3, 1]], dtype=torch.int8)
    halves = mxint8_dequantize(codes, SCALES[133 - 25, :1][None], torch.float16).double() * 2.0**24
    assert halves.tolist() == [[2.0, 2.0, -2.0, 0.0]]  # 1.5, 2.5, -1.5 and .5 of the least number


@pytest.mark.parametrize("shape", [(1,), (31,), (33,), (3, 70), (2, 3, 5), (2, 0), (0, 4)])
def test_blocks_end_with_their_row(shape):
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-128, 128, shape, generator=generator).to(torch.int8)
    blocks = (*shape[:-1], -(-shape[-1] // 32))
    scales = torch.randint(100, 140, blocks, generator=generator).to(torch.uint8)
    for dtype in DTYPES:
        expected = mxint8_dequantize_reference(codes, scales, dtype)
        for name, actual in answers(codes, scales, dtype):
            assert torch.equal(actual, expected), name


def test_opcheck():
    arguments = CODES[:3, :40], SCALES[:3, :2], torch.bfloat16
    torch.library.opcheck(torch.ops.halut.mxint8_dequantize.default, arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((CODES.short(), SCALES), "codes must be int8 and scales uint8"),
        ((CODES, SCALES.char()), "codes must be int8 and scales uint8"),
        ((CODES, SCALES[:, :7]), r"scales \[.., ceil\(C / 32\)\] do not fit"),
        ((CODES, SCALES, torch.float64), "float32, bfloat16 or float16, got torch.float64"),
        ((CODES, SCALES.to("meta")), "different devices"),
    ],
)
def test_wrong_arguments_are_named(arguments, says):
    with pytest.raises(HalutError, match=says):
        mxint8_dequantize(*arguments)
