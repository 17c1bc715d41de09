"""Bucket means, sizes and reconstructions against loops."""

import pytest
import torch

from halut.ops.blocks import Blocks
from halut.prototypes.buckets import bucket_means, bucket_sizes, reconstruct


@pytest.mark.parametrize(("D", "C", "groups"), [(6, 2, 1), (7, 3, 2), (5, 5, 1)])
def test_means_and_reconstruction_equal_loops(D, C, groups):
    generator = torch.Generator().manual_seed(0)
    blocks, N, K = Blocks(D, C, groups), 50, 4
    rows = torch.randn(N, groups * D, generator=generator)
    codes = torch.randint(0, K - 1, (N, groups * C), generator=generator).to(torch.uint8)
    empty = torch.full((groups * C, K, blocks.V), 9.0)
    means = bucket_means(rows, codes, blocks, empty)
    sizes = bucket_sizes(codes, K)
    rebuilt = reconstruct(codes, means, blocks)
    for c, (start, width) in enumerate(zip(blocks.starts, blocks.widths, strict=True)):
        for k in range(K):
            mine = rows[codes[:, c] == k, start : start + width]
            assert sizes[c, k] == len(mine)
            expected = mine.mean(0) if len(mine) else torch.full((width,), 9.0)
            torch.testing.assert_close(means[c, k, :width], expected)
        for n in range(N):
            prototype = means[c, codes[n, c].long(), :width]
            assert torch.equal(rebuilt[n, start : start + width], prototype)
    assert rebuilt.shape == rows.shape


def test_means_do_not_depend_on_the_slices_of_rows(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    blocks = Blocks(4, 2)
    rows = torch.randn(37, 4, generator=generator)
    codes = torch.randint(0, 3, (37, 2), generator=generator)
    whole = bucket_means(rows, codes, blocks, torch.zeros(2, 3, 2))
    monkeypatch.setattr("halut.prototypes.buckets.ROWS", 5)
    torch.testing.assert_close(bucket_means(rows, codes, blocks, torch.zeros(2, 3, 2)), whole)
