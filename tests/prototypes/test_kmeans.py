"""k-means: no worse than scikit-learn's, every centroid used, seeds that decide."""

import numpy as np
import torch
from sklearn.cluster import KMeans

from halut.prototypes.kmeans import assign_nearest, kmeans, lloyd, revive, sampled


def error(x, centroids):
    return ((x - centroids[assign_nearest(x, centroids)]) ** 2).sum()


def rows(N, V, seed=0):
    return np.random.default_rng(seed).normal(size=(N, V)).astype(np.float32)


def test_error_is_close_to_scikit_learns():
    x = rows(2000, 4)
    theirs = KMeans(16, n_init=1, random_state=0).fit(x).inertia_
    assert error(x, kmeans(x, 16, restarts=3)) < 1.02 * theirs


def test_all_rows_count_not_only_256_per_centroid():
    # 300,000 copies of two points and one row far away: a subsample of 512 rows misses it.
    x = np.zeros((300_000, 1), np.float32)
    x[150_000:] = 1
    x[-1] = 1000
    assert error(x, kmeans(x, 3)) == 0


def test_every_centroid_has_rows():
    x = np.concatenate([rows(500, 3) * 1e-3, rows(8, 3, seed=1) * 100])
    sizes = np.bincount(assign_nearest(x, kmeans(x, 32)), minlength=32)
    assert sizes.min() > 0


def test_revive_puts_unused_centroids_on_the_worst_rows():
    x = np.array([[0.0], [1.0], [9.0]], np.float32)
    centroids = np.array([[0.0], [50.0], [60.0]], np.float32)
    assert sorted(revive(x, centroids.copy()).ravel().tolist()) == [0.0, 1.0, 9.0]


def test_fewer_distinct_rows_than_centroids():
    for x in (np.ones((1, 2), np.float32), np.zeros((40, 3), np.float32), rows(5, 2)):
        centroids = kmeans(x, 16)
        assert centroids.shape == (16, x.shape[1])
        assert np.isfinite(centroids).all()
        assert error(x, centroids) < 1e-6


def test_the_seed_decides():
    x = rows(400, 5)
    assert np.array_equal(kmeans(x, 8, seed=3), kmeans(x, 8, seed=3))
    assert not np.array_equal(kmeans(x, 8, seed=3), kmeans(x, 8, seed=4))


def test_lloyd_under_another_metric_lowers_that_encodings_error():
    x = torch.from_numpy(rows(1000, 4))
    start = torch.from_numpy(kmeans(x.numpy(), 8))
    for p in (1.0, float("inf")):

        def encoded_error(centroids, p=p):
            codes = torch.cdist(x, centroids, p=p).argmin(1)
            return float((x - centroids[codes]).square().sum())

        assert encoded_error(lloyd(x, start, p, 10)) < encoded_error(start)


def test_sampled_rows_are_distinct_and_seeded():
    x = torch.arange(100.0)[:, None]
    drawn = sampled(x, 30, seed=5)
    assert len(drawn.unique()) == 30
    assert torch.equal(drawn, sampled(x, 30, seed=5))
    assert torch.equal(sampled(x, 100, seed=5), x)
