"""Exact powers and logarithms of two, and codes packed into bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halut.codecs.packing import pack
from halut.codecs.powers import floor_log2, round_log2, times_power


def test_logarithms_and_powers_are_exact():
    exponents = torch.arange(-126, 128, dtype=torch.int32)
    powers = times_power(torch.ones(len(exponents)), exponents)
    assert powers.tolist() == [2.0**e for e in range(-126, 128)]
    below = torch.nextafter(powers, torch.zeros(()))[1:]
    assert torch.equal(floor_log2(powers), exponents)
    assert torch.equal(floor_log2(below), exponents[:-1])
    x = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) * 8
    assert torch.equal(round_log2(x), torch.log2(x.double()).round().int())
    tiny = torch.tensor([1.0, 5.0]) * 2.0**-140
    assert times_power(torch.tensor([1.0, 5.0]), torch.tensor(-140).int()).tolist() == tiny.tolist()


@pytest.mark.parametrize("width", [1, 3, 8, 11])
def test_packed_codes_are_numpys_bits(width):
    codes = torch.randint(0, 2**width, (37,), generator=torch.Generator().manual_seed(0))
    bits = (codes.numpy()[:, None] >> np.arange(width)) & 1
    expected = np.packbits(bits.astype(np.uint8).flatten(), bitorder="little")
    assert pack(codes.int(), width).tolist() == expected.tolist()
