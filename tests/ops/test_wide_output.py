"""Bytes written by whole cache lines: 64 outputs of a row, 64 positions of a plane, near misses."""

from __future__ import annotations

import pytest
import torch

from halut.ops import ConvGeometry, cpu, pack_table, tree_layer
from tests.oracles.layer import tree_layer_reference

BYTES = (torch.int8, torch.uint8)
WINDOW = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))


def case(size, G, M, answer, added, window=None):
    """x, what a layer of 4 codebooks a group is made of, and its residual."""
    generator = torch.Generator().manual_seed(M + sum(size))
    taps = torch.randint(size[1] // G * (9 if window else 1), (G * 4 * 4,), generator=generator)
    thresholds = torch.randn(G * 4, 15, generator=generator) * 20
    table = torch.randint(-128, 128, (G, 4, 16, M), dtype=torch.int8, generator=generator)
    scale = torch.randn(G * M, generator=generator)  # far beyond a byte: most answers saturate
    scale[::3] /= 8
    bias = torch.randn(G * M, generator=generator) * 9
    scale[-1] = 1e30
    x = torch.randint(-90, 90, size, dtype=torch.int8, generator=generator)
    residual = None
    if added is not None:
        shape = (size[0], G * M, *size[2:])
        residual = torch.randint(0, 100, shape, generator=generator).to(added)
    return x, (taps, thresholds, table, scale, bias), (-3.0, answer, window, residual, 0.5)


def agree(x, inner, rest):
    taps, thresholds, table, scale, bias = inner
    expected = tree_layer_reference(x, *inner, *rest)
    for level in cpu.cpu_capabilities():
        with cpu.use_cpu_capability(level):
            y = tree_layer(x, taps, thresholds, table, pack_table(table), scale, bias, *rest)
        assert torch.equal(y, expected), level


@pytest.mark.parametrize("added", [None, *BYTES, torch.float32])
@pytest.mark.parametrize("answer", BYTES)
@pytest.mark.parametrize("M", [64, 128, 192 + 5])
def test_rows(M, answer, added):
    for N in (20, 64, 83, 1100):
        agree(*case((N, 12), 2 if M == 64 else 1, M, answer, added))


@pytest.mark.parametrize("added", [None, *BYTES, torch.float32])
@pytest.mark.parametrize("answer", BYTES)
def test_planes(answer, added):
    for images, H, W in ((1, 7, 7), (2, 8, 8), (3, 9, 5), (1, 40, 40)):
        x, inner, rest = case((images, 4, H, W), 2, 7, answer, added, WINDOW)
        agree(x, inner, rest)


@pytest.mark.parametrize("added", [None, torch.uint8])
def test_channels_last_maps(added):
    for images, H, W in ((1, 7, 7), (3, 9, 5)):
        x, inner, rest = case((images, 4, H, W), 1, 64, torch.uint8, added, WINDOW)
        last = torch.channels_last
        if rest[3] is not None:
            rest = (*rest[:3], rest[3].contiguous(memory_format=last), rest[4])
        agree(x.contiguous(memory_format=last), inner, rest)
