"""Tensors of more than 2^31 elements: every index is 64 bits wide.

Most of them are zeros that were never written, and so take no memory; the answer of tree_layer
takes 2 GiB.
"""

from __future__ import annotations

import pytest
import torch

from halut.ops import (
    ConvGeometry,
    accumulate,
    nearest_encode,
    pack_table,
    tree_encode,
    tree_layer,
)

pytestmark = pytest.mark.slow

MANY = (1 << 31) + (1 << 16)


def test_codes():
    C = 4096
    N = MANY // C
    codes = torch.zeros(N, C, dtype=torch.uint8)
    codes[-1] = 1
    table = torch.randint(-128, 128, (1, C, 2, 1), dtype=torch.int8)
    y = accumulate(codes, table)[:, 0]
    sums = table.to(torch.int32).sum(1)[0, :, 0]
    assert y[-1] == sums[1]
    assert bool((y[:-1] == sums[0]).all())


def test_table():
    table = torch.zeros(1, 2, 256, MANY // 512, dtype=torch.int8)
    table[0, 1, 255, -3:] = torch.tensor([5, -6, 7], dtype=torch.int8)
    y = accumulate(torch.full((1, 2), 255, dtype=torch.uint8), table)
    assert y[0, -4:].tolist() == [0, 5, -6, 7]
    assert int(y.abs().sum()) == 18


def test_inputs():
    thresholds = torch.zeros(1, 1)
    D = 2048
    x = torch.zeros(MANY // D, D, dtype=torch.int8)
    x[-1, -1] = 1
    codes = tree_encode(x, torch.tensor([D - 1]), thresholds)[:, 0]
    assert codes.nonzero().tolist() == [[len(x) - 1]]
    prototypes = torch.zeros(1, 2, D)
    prototypes[0, 1, -1] = 1
    codes = nearest_encode(x, prototypes, "l2")[:, 0]
    assert codes.nonzero().tolist() == [[len(x) - 1]]
    side = 1 << 15
    image = x.view(-1)[: (MANY // side) * side].view(1, 1, -1, side)
    image[0, 0, 1 << 16] = 1
    skip = ConvGeometry((1, 1), (64, 64))
    codes = tree_encode(image, torch.tensor([0]), thresholds, skip).view(-1, side // 64)
    assert bool((codes[-1] == 1).all())
    assert not bool(codes[:-1].any())


def test_answers():
    M = 4096 + 5
    x = torch.randint(-128, 128, (MANY // M + 1, 4), dtype=torch.int8)
    taps, thresholds = torch.tensor([0, 1, 2, 3] * 4), torch.randn(4, 15) * 30
    table = torch.randint(-128, 128, (1, 4, 16, M), dtype=torch.int8)
    rest = (table, pack_table(table), torch.full((M,), 0.25), torch.zeros(M), None, torch.int8)
    y = tree_layer(x, taps, thresholds, *rest)
    assert y.numel() > 1 << 31
    for rows in (slice(0, 70), slice(len(x) // 2, len(x) // 2 + 70), slice(len(x) - 70, len(x))):
        assert torch.equal(y[rows], tree_layer(x[rows], taps, thresholds, *rest))
