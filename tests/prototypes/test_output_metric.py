"""Trees cut by the error of the output, and boosted: against definitions written out."""

import numpy as np
import pytest
import torch

from halut.configs import Tree
from halut.encoders.tree import TreeEncoder
from halut.errors import HalutError
from halut.ops.blocks import Blocks
from halut.prototypes.boosting import boosted_trees
from halut.prototypes.output_metric import weight_roots
from halut.prototypes.tree_learning import learn_tree
from tests.prototypes.test_tree_learning import squared_error


def correlated(N, width, seed):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    return torch.relu(torch.randn(N, width, generator=generator) @ mix)


def weight_of(blocks, M, seed):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-1.5, 0.5, blocks.D)[torch.randperm(blocks.D, generator=generator)]
    return scales * torch.randn(blocks.groups * M, blocks.D, generator=generator)


def products(rows, weight, groups):
    """[N, groups, M_g]"""
    x = rows.view(len(rows), groups, -1)
    return torch.einsum("ngd,gmd->ngm", x, weight.view(groups, -1, x.shape[2]))


@pytest.mark.parametrize("blocks", [Blocks(7, 2), Blocks(6, 3), Blocks(5, 2, groups=2)])
def test_roots_measure_what_a_block_adds_to_the_output(blocks):
    weight = weight_of(blocks, 4, seed=0)
    rows = torch.randn(20, blocks.inputs, generator=torch.Generator().manual_seed(1))
    roots = weight_roots(weight, blocks)
    for c, (start, width) in enumerate(zip(blocks.starts, blocks.widths, strict=True)):
        first, g = start % blocks.D, start // blocks.D
        part = weight.view(blocks.groups, -1, blocks.D)[g][:, first : first + width]
        x = rows[:, start : start + width].double()
        ours = (x @ roots[c, :width, :width]).square().sum(1)
        ratio = ours / (x @ part.T.double()).square().sum(1)
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
        assert roots[c, width:].eq(0).all()


def test_roots_need_a_weight_that_fits():
    for weight in (None, torch.ones(4, 5), torch.ones(3, 6)):
        with pytest.raises(HalutError, match=r"output_metric needs the weight \[2 \* M, 6\]"):
            weight_roots(weight, Blocks(6, 2, groups=2))


def slow_dim_of_one_cut(x, targets):
    """The input whose best single cut leaves the least error of the targets, tried one by one."""
    best = {}
    for v in range(len(x)):
        cuts = np.unique(x[v])[:-1]
        sides = (x[v] <= t for t in cuts)
        best[v] = min(squared_error(targets[:, s]) + squared_error(targets[:, ~s]) for s in sides)
    return min(best, key=best.get)


@pytest.mark.parametrize("seed", range(6))
def test_cuts_are_scored_by_the_error_of_the_targets(seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(6, 50)).astype(np.float32)
    targets = (generator.normal(size=(3, 6)) ** 3 @ x).astype(np.float32)
    tree = learn_tree(x, 1, 6, targets)
    assert tree.split_dims[0] == slow_dim_of_one_cut(x.astype(float), targets.astype(float))


def test_inputs_as_targets_change_nothing():
    x = np.random.default_rng(7).normal(size=(9, 300)).astype(np.float32)
    ours, plain = learn_tree(x, 3, 8, x), learn_tree(x, 3, 8)
    assert (ours.split_dims == plain.split_dims).all()
    assert (ours.thresholds == plain.thresholds).all()
    assert (ours.prototypes == plain.prototypes).all()
    assert (ours.codes == plain.codes).all()


def left_of_output(encoder, rows, weight, groups):
    """Least squared error of the products over all tables of the encoder's codes (by lstsq)."""
    y, left = products(rows, weight, groups), 0.0
    codes = encoder.codes(rows).view(len(rows), groups, -1).long()
    for g in range(groups):
        one_hot = torch.nn.functional.one_hot(codes[:, g], encoder.K).flatten(1).double()
        solution = torch.linalg.lstsq(one_hot, y[:, g].double(), driver="gelsd").solution
        left += float((one_hot @ solution - y[:, g]).square().sum())
    return left / float(y.square().sum())


@pytest.mark.parametrize("blocks", [Blocks(24, 4), Blocks(23, 4), Blocks(12, 2, groups=2)])
def test_each_step_leaves_less_of_the_output(blocks):
    rows, weight = correlated(3000, blocks.inputs, seed=2), weight_of(blocks, 10, seed=3)
    left = []
    for metric, passes in ((False, 0), (True, 0), (True, 1)):
        encoder = TreeEncoder(blocks, 8, Tree(K=8, output_metric=metric, boosting=passes))
        prototypes = encoder.calibrate(rows, weight=weight)
        again = encoder.calibrate_jointly(rows, prototypes, weight)
        assert (again is None) == (passes == 0)
        left.append(left_of_output(encoder, rows, weight, blocks.groups))
    assert left[1] < 0.9 * left[0]
    assert left[2] < left[1]


def test_more_passes_leave_no_more():
    blocks = Blocks(16, 4)
    rows, weight = correlated(2000, 16, seed=4), weight_of(blocks, 6, seed=5)
    encoder = TreeEncoder(blocks, 8, Tree(K=8))
    prototypes = encoder.calibrate(rows, weight=weight)
    trees = encoder.split_dims.clone(), encoder.thresholds.detach().clone()
    left = []
    for passes in (0, 1, 3):
        split_dims, thresholds = boosted_trees(
            trees, rows, encoder.codes(rows), prototypes, weight, 8, passes
        )
        boosted = TreeEncoder(blocks, 8)
        boosted.split_dims.copy_(split_dims)
        boosted.thresholds.data.copy_(thresholds)
        left.append(left_of_output(boosted, rows, weight, 1))
        if not passes:
            assert torch.equal(split_dims, trees[0])
            assert torch.equal(thresholds, trees[1])
    assert left[0] > left[1] > left[2]


def test_boosted_prototypes_are_the_means_of_their_rows():
    blocks = Blocks(9, 2)
    rows, weight = correlated(500, 9, seed=6), weight_of(blocks, 3, seed=7)
    encoder = TreeEncoder(blocks, 4, Tree(K=4, boosting=2))
    prototypes = encoder.calibrate_jointly(rows, encoder.calibrate(rows, weight=weight), weight)
    codes = encoder.codes(rows)
    for c, (start, width) in enumerate(zip(blocks.starts, blocks.widths, strict=True)):
        for k in range(4):
            expected = rows[codes[:, c] == k, start : start + width].mean(0)
            torch.testing.assert_close(prototypes[c, k, :width], expected)
