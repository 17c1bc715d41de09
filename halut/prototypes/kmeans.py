"""k-means of one codebook's inputs by faiss; empty clusters are split anew."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halut.errors import HalutError
from halut.ops.power_of_two import unit_of
from halut.prototypes.codebooks import faiss_module

Matrix = NDArray[np.float32]


def kmeans(x: Matrix, K: int, seed: int = 0, iterations: int = 25, restarts: int = 1) -> Matrix:
    """Centroids [K, V] of the rows x [N, V]: least squared L2 error over `restarts` runs.

    k-means++ starts from a fixed seed and uses all rows it is given. Every centroid ends with at
    least one row of its own wherever x holds K distinct rows.
    Raises HalutError if faiss is missing, or x holds NaN or infinite values.
    """
    faiss = faiss_module()
    unit = _unit(x)
    x = np.ascontiguousarray(x, dtype=np.float32) / unit
    if len(x) < K:  # faiss refuses fewer rows than centroids
        x = np.tile(x, (-(-K // len(x)), 1))
    runs = faiss.Kmeans(
        x.shape[1],
        K,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        spherical=False,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        # Its default of 256 would silently learn from 256 K rows.
        max_points_per_centroid=len(x),
        min_points_per_centroid=1,
    )
    runs.train(x)
    return revive(x, np.array(runs.centroids, dtype=np.float32)) * unit


def _unit(*arrays: Matrix) -> np.float32:
    """The unit of values whose squares faiss, which aborts on those that overflow, can take."""
    largest = max(float(np.abs(a).max(initial=0)) for a in arrays)
    if not np.isfinite(largest):
        raise HalutError("k-means: the rows hold NaN or infinite values")
    return np.float32(unit_of(largest))


def revive(x: Matrix, centroids: Matrix) -> Matrix:
    """Move each centroid without rows onto the row that is worst represented so far."""
    codes = assign_nearest(x, centroids)
    least = ((x - centroids[codes]) ** 2).sum(axis=1)
    for k in np.flatnonzero(np.bincount(codes, minlength=len(centroids)) == 0):
        worst = int(least.argmax())
        if least[worst] <= 0:  # fewer distinct rows than centroids
            break
        centroids[k] = x[worst]
        least = np.minimum(least, ((x - x[worst]) ** 2).sum(axis=1))
    return centroids


def assign_nearest(x: Matrix, centroids: Matrix) -> NDArray[np.int64]:
    """Index [N] of the centroid at the least L2 distance from each row of x [N, V]."""
    unit = _unit(x, centroids)
    _, nearest = faiss_module().knn(
        np.ascontiguousarray(x / unit), np.ascontiguousarray(centroids / unit), 1
    )
    return nearest[:, 0]


def lloyd(x: Tensor, centroids: Tensor, p: float, iterations: int) -> Tensor:
    """Iterations of k-means whose assignment is by the Lp distance (p = inf: Chebyshev).

    Centroids stay means, as the look-up table's error is squared whatever the assignment; the
    iteration with the least squared error is returned.
    """
    unit = unit_of(float(torch.cat([x, centroids]).abs().max()))
    x, centroids = x / unit, centroids / unit
    best, least = centroids, float("inf")
    for _ in range(iterations):
        codes = torch.cdist(x, centroids, p=p).argmin(dim=1)
        means = torch.zeros_like(centroids).index_add_(0, codes, x)
        sizes = torch.bincount(codes, minlength=len(centroids))[:, None]
        error = float((x - centroids[codes]).square().sum())
        if error < least:
            best, least = centroids, error
        centroids = torch.where(sizes > 0, means / sizes.clamp(min=1), centroids)
    return best * unit


def sampled(rows: Tensor, count: int, seed: int) -> Tensor:
    """At most `count` of the rows, drawn without replacement by the seed."""
    if len(rows) <= count:
        return rows
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)]
