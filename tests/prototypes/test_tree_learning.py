"""Tree learning against an oracle that tries every cut of every input by its definition."""

import itertools

import numpy as np
import pytest
import torch

from halut.ops.blocks import Blocks
from halut.prototypes.cuts import midpoint
from halut.prototypes.tree_learning import learn_tree, learn_trees


def squared_error(x):
    """Squared distance of rows x [V, n] from their mean."""
    return ((x - x.mean(axis=1, keepdims=True)) ** 2).sum() if x.shape[1] else 0.0


def slow_cut(x, v):
    """(error, threshold or None) of the best cut of rows x [V, n] by input v."""
    best = squared_error(x), None
    values = np.unique(x[v])
    errors = []
    for below, above in itertools.pairwise(values):
        left = x[v] <= below
        error = squared_error(x[:, left]) + squared_error(x[:, ~left])
        errors.append((error, (below + above) / 2))
    return min(errors, default=best, key=lambda cut: cut[0])


def slow_levels(x, depth, candidates, split_dims, thresholds):
    """Per level of a learned tree: its error, and the least that its buckets allowed."""
    x = x.astype(np.float64)
    codes = np.zeros(x.shape[1], int)
    for level in range(depth):
        buckets = [x[:, codes == p] for p in range(2**level)]
        spread = [sum(squared_error(b[[v]]) for b in buckets) for v in range(len(x))]
        allowed = np.argsort(-np.array(spread), kind="stable")[:candidates]
        errors = {v: sum(slow_cut(b, v)[0] for b in buckets) for v in sorted(allowed)}
        t = thresholds[2**level - 1 : 2 ** (level + 1) - 1]
        codes = 2 * codes + (x[split_dims[level]] > t[codes])
        got = sum(squared_error(x[:, codes == p]) for p in range(2 ** (level + 1)))
        yield got, min(errors.values()), errors, buckets


def kinds(generator, V, N):
    x = generator.normal(size=(V, N))
    return {
        "normal": x,
        "relu": np.maximum(x, 0),
        "few values": generator.integers(0, 3, size=(V, N)),
        "constant": np.full((V, N), 2.5),
        "one constant column": np.concatenate([np.full((1, N), -7.0), x[1:]]),
        "duplicate columns": np.repeat(x[:1], V, axis=0),
        "huge": x * 1e18,
        "far from zero": x + 1e4,
    }


@pytest.mark.parametrize("kind", kinds(np.random.default_rng(0), 1, 1))
@pytest.mark.parametrize(
    ("V", "N", "depth", "candidates"), [(1, 7, 2, 8), (4, 40, 3, 8), (11, 30, 2, 8), (5, 3, 3, 2)]
)
def test_every_level_is_cut_as_well_as_any_cut_can(kind, V, N, depth, candidates):
    x = kinds(np.random.default_rng(V + N), V, N)[kind].astype(np.float32)
    tree = learn_tree(x, depth, candidates)
    assert np.isfinite(tree.thresholds).all()
    assert np.isfinite(tree.prototypes).all()
    scale = squared_error(x.astype(np.float64)) + 1e-30
    levels = slow_levels(x, depth, candidates, tree.split_dims, tree.thresholds)
    for got, least, _, _ in levels:
        assert got <= least + 1e-7 * scale


def test_dims_and_thresholds_equal_the_oracle_where_no_two_cuts_tie():
    x = np.random.default_rng(1).normal(size=(10, 60)).astype(np.float32)
    tree = learn_tree(x, 3, 8)
    levels = slow_levels(x, 3, 8, tree.split_dims, tree.thresholds)
    for level, (_, _, errors, buckets) in enumerate(levels):
        dim = min(errors, key=errors.get)
        assert tree.split_dims[level] == dim
        for p, bucket in enumerate(buckets):
            expected = slow_cut(bucket, dim)[1]
            assert tree.thresholds[2**level - 1 + p] == pytest.approx(expected, rel=1e-6)


def test_of_equal_inputs_the_first_is_tested():
    x = np.random.default_rng(2).normal(size=(1, 50)).astype(np.float32)
    assert learn_tree(np.repeat(x, 4, axis=0), 3, 8).split_dims.tolist() == [0, 0, 0]


def test_only_the_widest_inputs_are_candidates():
    x = np.random.default_rng(3).normal(size=(6, 50)).astype(np.float32)
    x[4] *= 100
    assert learn_tree(x, 1, 1).split_dims.tolist() == [4]


def test_a_row_is_never_on_the_wrong_side_of_a_rounded_midpoint():
    below = np.float32(1.0)
    above = np.nextafter(below, np.float32(2))
    assert below <= midpoint(below, above) < above
    assert midpoint(np.float32(-3e38), np.float32(3e38)) == 0
    assert midpoint(np.float32(3e38), np.float32(3.2e38)) < np.float32(3.2e38)
    x = np.array([[below, above]], dtype=np.float32)
    assert np.sort(learn_tree(x, 1, 8).prototypes[:, 0]).tolist() == [below, above]


def test_an_empty_bucket_takes_its_parents_mean():
    x = np.array([[0.0, 1.0], [4.0, 4.0]], dtype=np.float32)
    prototypes = learn_tree(x, 3, 8).prototypes
    assert {tuple(p) for p in prototypes} == {(0.0, 4.0), (1.0, 4.0)}


def test_prototypes_are_the_means_of_their_rows():
    rows = torch.randn(200, 7, generator=torch.Generator().manual_seed(0))
    blocks = Blocks(7, 2)
    split_dims, thresholds, prototypes = learn_trees(rows, blocks, depth=3)
    for c, (start, width) in enumerate(zip(blocks.starts, blocks.widths, strict=True)):
        codes = torch.zeros(200, dtype=torch.long)
        for level in range(3):
            t = thresholds[c, 2**level - 1 + codes]
            codes = 2 * codes + (rows[:, split_dims[c, level]] > t)
        assert len(codes.unique()) == 8
        for k in range(8):
            mean = rows[codes == k, start : start + width].mean(0)
            torch.testing.assert_close(prototypes[c, k, :width], mean)
            assert prototypes[c, k, width:].eq(0).all()


def test_split_dims_are_columns_of_the_rows_and_progress_counts_codebooks():
    done = []
    blocks = Blocks(5, 2, groups=2)
    rows = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
    split_dims, _, _ = learn_trees(rows, blocks, depth=2, progress=done.append)
    assert sum(done) == 4
    spans = zip(split_dims, blocks.starts, blocks.widths, strict=True)
    assert all(((dims >= start) & (dims < start + width)).all() for dims, start, width in spans)
