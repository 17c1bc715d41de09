"""Complete binary trees with an input per node, grown by scikit-learn on k-means labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeClassifier

from halut.ops.power_of_two import unit_of
from halut.prototypes.cuts import Buckets, Floats, Ints
from halut.prototypes.kmeans import Matrix, assign_nearest, kmeans


@dataclass(frozen=True)
class NodeTree:
    """dims [K-1] columns of the block and thresholds [K-1] in heap order; means [K, V] of leaves.

    A leaf that no row reaches has the mean of its nearest ancestor with rows.
    """

    dims: Ints
    thresholds: NDArray[np.float32]
    means: Floats


def learn_node_tree(x: Matrix, K: int, seed: int = 0, iterations: int = 25) -> NodeTree:
    """The tree of one codebook from its rows x [N, V]: CART predicts their k-means labels.

    CART stops where all rows of a node have one label. There the tree goes on to its full depth
    by the cuts of least squared error, so that no code is wasted.
    """
    # scikit-learn takes inputs that differ by less than 1e-7 for equal.
    unit = np.float32(unit_of(float(np.abs(x).max(initial=0))))
    x = np.ascontiguousarray(x, dtype=np.float32) / unit
    labels = assign_nearest(x, kmeans(x, K, seed, iterations))
    depth = K.bit_length() - 1
    grown = DecisionTreeClassifier(max_depth=depth, random_state=seed).fit(x, labels).tree_
    tree = NodeTree(np.zeros(K - 1, np.int64), np.zeros(K - 1, np.float32), np.zeros((K, len(x.T))))
    _complete(tree, grown, x, 0, 0, x.mean(axis=0, dtype=np.float64))
    return NodeTree(tree.dims, tree.thresholds * unit, tree.means * unit)


def _complete(tree: NodeTree, grown: Any, x: Matrix, node: int, source: int, mean: Floats) -> None:
    """Fill heap node `node`, reached by the rows x, from CART's node `source` (-1: none)."""
    if len(x):
        mean = x.mean(axis=0, dtype=np.float64)
    leaf = node - len(tree.dims)
    if leaf >= 0:
        tree.means[leaf] = mean
        return
    left, right = -1, -1
    if source >= 0 and grown.children_left[source] >= 0:
        left, right = grown.children_left[source], grown.children_right[source]
        dim, threshold = int(grown.feature[source]), not_above(grown.threshold[source])
    else:
        dim, threshold = best_cut(x, mean)
    tree.dims[node], tree.thresholds[node] = dim, threshold
    goes_right = x[:, dim] > threshold
    _complete(tree, grown, x[~goes_right], 2 * node + 1, left, mean)
    _complete(tree, grown, x[goes_right], 2 * node + 2, right, mean)


def not_above(threshold: float) -> np.float32:
    """The largest float32 <= threshold: scikit-learn cuts float32 rows at float64 midpoints."""
    rounded = np.float32(threshold)
    # Both as Python floats: numpy would compare a float32 with a float in float32.
    return (
        rounded
        if float(rounded) <= float(threshold)
        else np.nextafter(rounded, np.float32(-np.inf))
    )


def best_cut(x: Matrix, mean: Floats) -> tuple[int, np.float32]:
    """The input and threshold that leave rows x [N, V] the least squared error over all inputs."""
    columns = np.ascontiguousarray(x.T)
    bucket = Buckets(columns, np.zeros(len(x), np.uint8), mean[None])
    centered, harmonic = bucket.center(), bucket.harmonic()
    scratch = np.empty(columns.shape)
    cuts = [
        bucket.cut(np.argsort(column), v, centered, harmonic, scratch)
        for v, column in enumerate(columns)
    ]
    dim = int(np.argmax([cut.gain[0] for cut in cuts]))
    return dim, cuts[dim].thresholds[0]
