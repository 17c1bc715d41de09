"""The order of inputs: correlated ones in one block, and a smaller coding error for it."""

import numpy as np
import pytest
import torch

from halut.encoders import encoders
from halut.ops.blocks import Blocks
from halut.prototypes.buckets import reconstruct
from halut.prototypes.permutation import absolute_correlation, correlated_order


def mixed_rows(N, groups, size, noise=0.2, seed=0):
    """`groups` signals, each in `size` inputs of any sign and scale; the inputs are shuffled.

    Returns the rows [N, groups * size] and the group of every column.
    """
    generator = torch.Generator().manual_seed(seed)
    signals = torch.randn(N, groups, generator=generator)
    members = torch.arange(groups).repeat_interleave(size)
    members = members[torch.randperm(len(members), generator=generator)]
    sign = torch.randint(0, 2, (len(members),), generator=generator) * 2.0 - 1
    scale = torch.rand(len(members), generator=generator) + 0.5
    rows = signals[:, members] + noise * torch.randn(N, len(members), generator=generator)
    return rows * sign * scale, members


def test_correlation_is_numpys():
    rows, _ = mixed_rows(5000, 3, 2)  # more than one slice of rows
    expected = np.abs(np.corrcoef(rows.double().numpy().T))
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(absolute_correlation(rows).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_known_groups_are_found(seed):
    rows, members = mixed_rows(500, 6, 4, seed=seed)
    order = correlated_order(rows, Blocks(24, 6))
    assert order.sort().values.equal(torch.arange(24))
    blocks = members[order].view(6, 4)
    assert (blocks == blocks[:, :1]).all()


def test_groups_of_a_product_keep_their_inputs_and_narrow_blocks_are_filled():
    blocks = Blocks(7, 3, 2)
    order = correlated_order(
        torch.randn(40, 14, generator=torch.Generator().manual_seed(0)), blocks
    )
    assert order[:7].sort().values.equal(torch.arange(7))
    assert order[7:].sort().values.equal(torch.arange(7, 14))


def test_constant_inputs_come_last():
    rows, _ = mixed_rows(100, 2, 2)
    rows = torch.cat([torch.ones(100, 2), rows], 1)
    assert set(correlated_order(rows, Blocks(6, 3))[4:].tolist()) == {0, 1}


@pytest.mark.parametrize("name", list(encoders))
def test_the_coding_error_falls(name):
    rows, _ = mixed_rows(1500, 8, 4)
    blocks = Blocks(32, 8)

    def error(columns):
        encoder = encoders[name](blocks, 16)
        learned, fresh = columns[:1000], columns[1000:]
        prototypes = encoder.calibrate(learned)
        coded = reconstruct(encoder.codes(fresh), prototypes, blocks)
        return float((fresh - coded).square().sum() / fresh.square().sum())

    order = correlated_order(rows[:1000], blocks)
    assert error(rows[:, order]) < 0.4 * error(rows)
