"""The two tree encoders: codes as paths walked node by node, signs and scores by hand."""

import numpy as np
import pytest
import torch

from halut.configs import DecisionTree, Tree
from halut.encoders import encoders
from halut.encoders.decision_tree import DecisionTreeEncoder
from halut.encoders.tree import TreeEncoder, flip_assignment, leaf_assignment, leaf_paths
from halut.errors import HalutError
from halut.ops.blocks import Blocks
from halut.prototypes.cart import learn_node_tree, not_above


def walk(dims, thresholds, row):
    """The code of one row: dims and thresholds per heap node."""
    node = 0
    while node < len(thresholds):
        node = 2 * node + 1 + int(row[dims[node]] > thresholds[node])
    return node - len(thresholds)


@pytest.mark.parametrize("K", [2, 8, 64])
@pytest.mark.parametrize("name", ["tree", "decision_tree"])
def test_codes_are_paths(name, K):
    rows = torch.randn(150, 12, generator=torch.Generator().manual_seed(0))
    encoder = encoders[name](Blocks(6, 2, 2), K)
    encoder.calibrate(rows)
    if name == "tree":
        levels = [(node + 1).bit_length() - 1 for node in range(K - 1)]
        dims = encoder.split_dims[:, levels]
    else:
        dims = encoder.node_dims
    expected = [
        [walk(dims[c].tolist(), encoder.thresholds[c], row) for c in range(4)] for row in rows
    ]
    assert encoder.codes(rows).tolist() == expected


@pytest.mark.parametrize("name", ["tree", "decision_tree"])
def test_a_value_on_the_threshold_goes_left(name):
    encoder = encoders[name](Blocks(1, 1), 2)
    encoder.thresholds.data.fill_(0.5)
    assert encoder.codes(torch.tensor([[0.5], [0.5000001]])).tolist() == [[0], [1]]


@pytest.mark.parametrize("name", ["tree", "decision_tree"])
@pytest.mark.parametrize("K", [3, 12, 255])
def test_K_must_be_a_power_of_two(name, K):
    message = rf"{name} encoder: K must be a power of two in 2\.\.256 \(K = 2\^depth\), got {K}"
    with pytest.raises(HalutError, match=message):
        encoders[name](Blocks(4, 2), K)


def test_options_are_checked():
    with pytest.raises(HalutError, match="candidates must be at least 1, got 0"):
        Tree(candidates=0)
    with pytest.raises(HalutError, match="learn_rows must be at least 1, got 0"):
        DecisionTree(learn_rows=0)


def test_leaf_scores_by_hand():
    # Depth 2, signs: root +, left child -, right child -. Leaves: --: 0, -+: -2, +-: 2, ++: 0.
    thresholds = torch.zeros(1, 3)
    node_inputs = torch.tensor([[[1.0, -1.0, -1.0]]])
    got = leaf_assignment(node_inputs, thresholds, torch.tensor(1.0))[0, 0]
    torch.testing.assert_close(got, torch.tensor([0.0, -2.0, 2.0, 0.0]).softmax(0))


def test_every_leaf_has_its_ancestors():
    paths = leaf_paths(16)
    assert paths.abs().sum(0).eq(4).all()  # four ancestors each
    assert (paths.T @ paths).diagonal().eq(4).all()
    assert paths.sum(1).eq(0).all()  # as many leaves right as left


def test_the_gradient_is_that_of_tanh_at_the_hard_signs():
    thresholds = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[[0.5]]], dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    leaf_assignment(x, thresholds, tau)[0, 0, 1].backward()
    # p_right = softmax of the scores (-s, s) at s = +1; dp/ds = 2 p (1 - p).
    p = torch.sigmoid(torch.tensor(2.0, dtype=torch.float64))
    margin = torch.tensor(0.2, dtype=torch.float64)
    slope = 2 * p * (1 - p) * (1 - torch.tanh(margin / 0.7) ** 2)
    torch.testing.assert_close(x.grad.squeeze(), slope / 0.7)
    torch.testing.assert_close(thresholds.grad.squeeze(), -slope / 0.7)
    torch.testing.assert_close(tau.grad, -slope * margin / 0.7**2)


def reached(node_inputs, thresholds, forced=None, right=False):
    """Leaf of one row of one codebook, and the nodes passed; `forced` is answered by `right`."""
    node, passed = 0, []
    while node < len(thresholds):
        passed.append(node)
        test = right if node == forced else bool(node_inputs[node] > thresholds[node])
        node = 2 * node + 1 + test
    return node - len(thresholds), passed


def test_flipped_tests_change_the_answer_by_what_the_other_leaf_has():
    torch.manual_seed(4)
    N, GC, K = 30, 2, 8
    x = torch.randn(N, GC, K - 1, dtype=torch.float64, requires_grad=True)
    thresholds = torch.randn(GC, K - 1, dtype=torch.float64, requires_grad=True)
    tau = torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True)
    dE = torch.randn(N, GC, K, dtype=torch.float64)
    assignment = flip_assignment(x, thresholds, tau)
    gradients = torch.autograd.grad(assignment, (x, thresholds, tau), dE)
    expected = [torch.zeros_like(value) for value in (x, thresholds, tau)]
    for n in range(N):
        for c in range(GC):
            code, passed = reached(x[n, c], thresholds[c])
            assert assignment[n, c].tolist() == [float(k == code) for k in range(K)]
            for node in passed:
                ends = (reached(x[n, c], thresholds[c], node, side)[0] for side in (True, False))
                difference = dE[n, c, next(ends)] - dE[n, c, next(ends)]
                margin, t = (x[n, c, node] - thresholds[c, node]).detach(), tau[c].detach()
                slope = difference / 2 * (1 - torch.tanh(margin / t) ** 2) / t
                expected[0][n, c, node] += slope
                expected[1][c, node] -= slope
                expected[2][c] -= slope * margin / t
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", [TreeEncoder, DecisionTreeEncoder])
def test_the_estimator_flip_assigns_hard_codes(kind):
    rows = torch.randn(200, 6, generator=torch.Generator().manual_seed(3))
    encoder = kind(Blocks(6, 2), 8, kind.Config(K=8, estimator="flip"))
    encoder.calibrate(rows)
    inputs = encoder.gather_columns(rows)
    codes = torch.nn.functional.one_hot(encoder.encode(inputs).long(), 8)
    assert torch.equal(encoder.assign(inputs, torch.tensor(0.5)), codes.float())


def test_initial_tau_is_the_mean_margin_on_the_path():
    rows = torch.randn(80, 5, generator=torch.Generator().manual_seed(1))
    encoder = TreeEncoder(Blocks(5, 1), 4)
    encoder.calibrate(rows)
    t, dims = encoder.thresholds.detach()[0], encoder.split_dims[0]
    root = rows[:, dims[0]] - t[0]
    child = rows[:, dims[1]] - t[1 + (root > 0).long()]
    expected = torch.cat([root, child]).abs().mean()
    assert encoder.initial_tau(rows) == pytest.approx(float(expected), rel=1e-5)


def test_decision_nodes_of_one_level_may_test_different_inputs():
    # The first input says which of the other two matters: a tree of one dim per level cannot tell.
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(2)) * 0.01
    x[:, 0] = torch.where(torch.arange(2000) % 2 == 0, -9.0, 9.0)
    sign = torch.where(torch.arange(2000) // 2 % 2 == 0, -3.0, 3.0)
    x[0::2, 1] += sign[0::2]
    x[1::2, 2] += sign[1::2]
    encoder = DecisionTreeEncoder(Blocks(3, 1), 4)
    prototypes = encoder.calibrate(x)
    assert encoder.node_dims[0].tolist() == [0, 1, 2]
    error = (x - prototypes[0, encoder.codes(x)[:, 0].long()]).square().sum(1).mean()
    assert error < 0.001


def test_a_tree_that_cart_stops_early_is_still_complete(monkeypatch):
    # Four clusters of 16 rows, each of one label: CART alone would use four of the 16 leaves.
    x = np.repeat([0.0, 100.0, 200.0, 300.0], 16)[:, None] + np.tile(np.arange(16.0), 4)[:, None]
    labels = np.repeat([0, 1, 2, 3], 16)
    monkeypatch.setattr("halut.prototypes.cart.assign_nearest", lambda *_: labels)
    tree = learn_node_tree(x.astype(np.float32), 16)
    codes = [walk(tree.dims, tree.thresholds, row) for row in x]
    assert len(set(codes)) >= 12
    rebuilt = tree.means[codes]
    assert np.abs(rebuilt - x).max() < 8  # half of a cluster's width: each cluster is cut further


def test_a_leaf_that_no_row_reaches_has_its_ancestors_mean():
    tree = learn_node_tree(np.array([[1.0], [3.0]], np.float32), 8)
    assert set(tree.means[:, 0].tolist()) == {1.0, 3.0}
    assert np.isfinite(tree.thresholds).all()


def test_thresholds_round_down_so_that_no_row_changes_sides():
    below = np.float32(1)
    above = np.nextafter(below, np.float32(2))
    middle = (float(below) + float(above)) / 2
    for threshold in (middle, float(below), float(above) - 1e-12):
        assert below <= not_above(threshold) < above
