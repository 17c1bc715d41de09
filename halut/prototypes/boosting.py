"""Trees learned again, one after the other, on what the other codebooks leave of the output.

A tree learned by itself cuts where its own block varies most. Codebooks whose blocks go together
then tell the same twice, and the ridge regression of the tables cannot make them tell more. Here a
tree is learned on R_c = Y - sum_{c' != c} lut_{c'}[codes], the part of the exact product Y that the
other tables leave, as gradient boosting with squared error learns each of its trees (Friedman,
Greedy Function Approximation, 2001), cyclically as backfitting does.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from halut.ops.blocks import Blocks
from halut.prototypes.codebooks import each_codebook
from halut.prototypes.ridge import grouped_weight, refine
from halut.prototypes.tree_learning import Tree, learn_tree


def boosted_trees(
    trees: tuple[Tensor, Tensor],
    rows: Tensor,
    codes: Tensor,
    prototypes: Tensor,
    weight: Tensor,
    candidates: int,
    passes: int,
    target_rows: Tensor | None = None,
    stages: int = 1,
) -> tuple[Tensor, Tensor]:
    """split_dims [GC, depth] and thresholds [GC, K-1] after `passes` over all codebooks.

    `trees` are those before, of rows [N, groups * D], codes [N, GC] and prototypes [GC, K, V];
    weight [groups * M_g, D], stages of Blocks. Y is the exact product of target_rows, by default of
    rows. A tree is replaced if the new one leaves less of R_c than the old one, each with the means
    of its buckets.
    Memory: three arrays [N, M_g] float32. Time of a pass: learn_trees', and O(N M_g) a codebook.
    """
    split_dims, thresholds = (each.clone() for each in trees)
    D = weight.shape[1]
    groups, depth = rows.shape[1] // D, split_dims.shape[1]
    blocks = Blocks(D, codes.shape[1] // groups, groups, stages)
    W, C = grouped_weight(weight, blocks), blocks.C
    host = rows.detach().to("cpu", torch.float32)
    wanted = host if target_rows is None else target_rows.detach().to("cpu", torch.float32)
    for g in range(groups):
        books, columns = slice(g * C, (g + 1) * C), slice(g * D, (g + 1) * D)
        code = codes[:, books].cpu().long()
        lut = refine(code, prototypes[books], wanted[:, columns], W[g], stages=stages)[0]
        residual = wanted[:, columns] @ W[g].T
        for c in range(C):
            residual -= lut[c][code[:, c]]
        for c in [*range(C)] * passes:
            book = g * C + c
            start, width = blocks.starts[book], blocks.widths[book]
            rest, x = residual + lut[c][code[:, c]], host[:, start : start + width]
            # One rank learns for all: the next tree waits for this one.
            (tree,) = each_codebook(partial(_tree, x, rest, depth, candidates), 1, threads=1)
            means, error = _means(rest, code[:, c], 2**depth)
            new_code = torch.from_numpy(tree.codes).long()
            new_means, new_error = _means(rest, new_code, 2**depth)
            if new_error < error:
                split_dims[book] = torch.from_numpy(tree.split_dims) + start
                thresholds[book] = torch.from_numpy(tree.thresholds)
                code[:, c], means = new_code, new_means
            lut[c] = means
            residual = rest - means[code[:, c]]
    return split_dims, thresholds


def _tree(x: Tensor, rest: Tensor, depth: int, candidates: int, _: int) -> Tree:
    """The tree over inputs x [N, V] whose cuts lower the error of rest [N, M].

    Of the M outputs at most V directions count: those of the covariance with x, which hold all of
    the rest that a linear map of x explains.
    """
    covariance = (x - x.mean(0)).T @ rest  # [V, M]
    directions = torch.linalg.svd(covariance, full_matrices=False).Vh  # [min(V, M), M]
    targets = np.ascontiguousarray((directions @ rest.T).numpy())
    return learn_tree(np.ascontiguousarray(x.T.numpy()), depth, candidates, targets)


def _means(rest: Tensor, code: Tensor, K: int) -> tuple[Tensor, float]:
    """Means [K, M] of the rows with each code (zero where there are none), and the error left."""
    sizes = torch.bincount(code, minlength=K)
    means = rest.new_zeros(K, rest.shape[1]).index_add_(0, code, rest)
    means /= sizes.clamp(min=1)[:, None]
    explained = (means.square().sum(1) * sizes).sum()
    return means, float(rest.square().sum() - explained)
