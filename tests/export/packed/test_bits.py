"""Packed integers against a bit at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halut.errors import HalutError
from halut.export.packed.bits import fits, pack
from halut.export.packed.layer_file import layer_file, theoretical_bits
from halut.export.packed.operations import Packed
from halut.export.packed.reader import unpack


def packed_reference(values: list[int], bits: int) -> bytes:
    whole = sum((value & ((1 << bits) - 1)) << (i * bits) for i, value in enumerate(values))
    return whole.to_bytes(-(-len(values) * bits // 8), "little")


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 3, 4, 8, 10, 16, 32])
def test_every_width_is_read_again(bits, signed):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    values = np.random.default_rng(bits).integers(low, high, 37)
    values[:2] = low, high - 1
    content = pack(values, bits)
    assert content == packed_reference(values.tolist(), bits)
    assert np.array_equal(unpack(content, bits, signed, 37), values)


def test_the_first_of_two_entries_is_the_low_half():
    assert pack(np.array([1, 2, -1]), 4) == b"\x21\x0f"


def test_widths_are_checked():
    assert fits(np.array([-8, 7]), 4, signed=True)
    assert not fits(np.array([8]), 4, signed=True)
    assert not fits(np.array([-1]), 4, signed=False)
    tensor = torch.tensor([0, 300])
    with pytest.raises(HalutError, match=r"fc: bias has entries 0\.\.300, which do not fit 8 bits"):
        layer_file("fc", {"bias": Packed(tensor, ("output",), 8)})


def test_tensors_begin_at_whole_bytes():
    tensors = {
        "a": Packed(torch.tensor([1, 2, 3]), ("x",), 3),
        "b": Packed(torch.tensor([-1]), ("x",), 16, True),
    }
    file = layer_file("fc", tensors)
    assert file.content == b"\xd1\x00\xff\xff"
    assert [entry["offset"] for entry in file.entries] == [0, 2]
    assert theoretical_bits(file.entries) == 25
