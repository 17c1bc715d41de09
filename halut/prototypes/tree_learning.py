"""Hash trees as MADDNESS learns them: greedily, one level at a time, one input per level.

Source: Blalock and Guttag, Multiplying Matrices Without Multiplying, ICML 2021, algorithms 2 to 4,
with cuts scored over the inputs of the block, or over any targets, and thresholds at midpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halut.ops.blocks import Blocks
from halut.prototypes.codebooks import each_codebook
from halut.prototypes.cuts import Buckets, Cuts, Floats, Ints, bucket_means


@dataclass(frozen=True)
class Tree:
    """split_dims [depth] columns of the block, thresholds [K-1] in heap order, prototypes [K, V],
    and the codes [N] of the rows that it was learned from.

    In heap order the node of level l reached by the bits p has the index 2^l - 1 + p.
    """

    split_dims: Ints
    thresholds: NDArray[np.float32]
    prototypes: Floats
    codes: NDArray[np.uint8]


def learn_tree(
    x: NDArray[np.float32],
    depth: int,
    candidates: int,
    targets: NDArray[np.float32] | None = None,
) -> Tree:
    """The tree of one codebook from its inputs x [V, N].

    Per level every bucket is cut by the same input: of the `candidates` inputs with the largest
    squared error summed over the buckets, the one whose cuts leave the least error of the targets
    [R, N], by default all V inputs. Equal inputs: the first. An empty bucket is cut at the mean it
    inherits.
    """
    N = x.shape[1]
    codes = np.zeros(N, dtype=np.uint8)
    scratch = np.empty(x.shape if targets is None else targets.shape)
    inherited = x.mean(axis=1, dtype=np.float64)[None]
    orders: dict[int, Ints] = {}
    split_dims, thresholds = [], []
    for _ in range(depth):
        buckets = Buckets(x, codes, inherited, targets)
        dim, cuts = _best_dim(buckets, orders, candidates, scratch)
        split_dims.append(dim)
        thresholds.append(cuts.thresholds)
        codes = 2 * codes + (x[dim] > cuts.thresholds[codes])
        inherited = np.repeat(buckets.means, 2, axis=0)
    sizes = np.bincount(codes, minlength=2**depth)
    prototypes = bucket_means(x, codes, sizes, inherited)
    return Tree(np.array(split_dims), np.concatenate(thresholds), prototypes, codes)


def _best_dim(
    buckets: Buckets, orders: dict[int, Ints], candidates: int, scratch: Floats
) -> tuple[int, Cuts]:
    centered, harmonic = buckets.center(), buckets.harmonic()
    dims = np.arange(len(buckets.x))
    if candidates < len(dims):
        inputs = centered if buckets.targets is None else buckets.center_inputs()
        error = np.einsum("vn,vn->v", inputs, inputs)
        dims = np.sort(np.argsort(-error, kind="stable")[:candidates])
    best: tuple[float, int, Cuts] | None = None
    for v in dims.tolist():
        if v not in orders:  # sorted once per input; the levels only regroup it
            orders[v] = np.argsort(buckets.x[v])
        cuts = buckets.cut(buckets.group(orders[v]), v, centered, harmonic, scratch)
        gain = float(cuts.gain.sum())
        if best is None or gain > best[0]:
            best = gain, v, cuts
    assert best is not None
    return best[1], best[2]


def learn_trees(
    rows: Tensor,
    blocks: Blocks,
    depth: int,
    candidates: int = 8,
    progress: Callable[[int], None] | None = None,
    roots: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Trees of all codebooks over rows [N, groups * D].

    With roots L [GC, V, V] of W_c W_c' = L_c L_c' (halut.prototypes.output_metric) cuts are scored
    by the error of x_c L_c, whose squares are those of the products x_c W_c. Trees of a later stage
    (Blocks.stages) test inputs of x_c as well, and are cut by the error of what the trees before
    leave of it; their prototypes are means of that.

    Returns split_dims [GC, depth] int64 (columns of the rows), thresholds [GC, K-1] float32 and
    the bucket means [GC, K, V] float32, zero in the padding of narrow blocks. One codebook at a
    time, with a few arrays of 8 N V bytes. Time: O(GC * depth * candidates * N * V) after one sort
    per input.
    """
    host = rows.detach().to("cpu", torch.float32).numpy()

    split_dims = torch.zeros(blocks.total, depth, dtype=torch.int64)
    thresholds = torch.zeros(blocks.total, 2**depth - 1)
    prototypes = torch.zeros(blocks.total, 2**depth, blocks.V)

    spans = blocks.C // blocks.stages
    firsts = [g * blocks.C + b for g in range(blocks.groups) for b in range(spans)]

    def learn(i: int) -> list[Tree]:
        c = firsts[i]
        start, width = blocks.starts[c], blocks.widths[c]
        x = np.ascontiguousarray(host[:, start : start + width].T)
        root = None if roots is None else roots[c, :width, :width].to(torch.float32).T.numpy()
        return _learn_stages(x, depth, candidates, blocks.stages, root)

    for first, trees in zip(firsts, each_codebook(learn, len(firsts), threads=1), strict=True):
        start, width = blocks.starts[first], blocks.widths[first]
        for stage, tree in enumerate(trees):
            c = first + stage * spans
            split_dims[c] = torch.from_numpy(tree.split_dims) + start
            thresholds[c] = torch.from_numpy(tree.thresholds)
            prototypes[c, :, :width] = torch.from_numpy(tree.prototypes)
            if progress is not None:
                progress(1)
    return split_dims, thresholds, prototypes


def _learn_stages(
    x: NDArray[np.float32],
    depth: int,
    candidates: int,
    stages: int,
    root: NDArray[np.float32] | None,
) -> list[Tree]:
    """Trees over one block's inputs x [V, N], each cut by the error of what those before leave."""
    trees: list[Tree] = []
    rest = x
    for stage in range(stages):
        targets = rest if stage > 0 else None
        if root is not None:
            targets = root @ rest
        tree = learn_tree(x, depth, candidates, targets)
        if stage > 0:
            sizes = np.bincount(tree.codes, minlength=2**depth)
            empty = np.zeros((2**depth, len(x)))
            tree = replace(tree, prototypes=bucket_means(rest, tree.codes, sizes, empty))
        trees.append(tree)
        if stage + 1 < stages:
            rest = rest - tree.prototypes.astype(np.float32)[tree.codes].T
    return trees
