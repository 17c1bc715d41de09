"""Which samples go where: stratified splits and class-balanced subsets, by seed.

Not by scikit-learn's train_test_split(stratify=): it draws other positions of the same seed, so
that figures of earlier runs would stand for other images, and may hold out none of a small class.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from halut.errors import HalutError


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out `fraction` of every class: labels [n] -> sorted positions (train, held out).

    Every class with two or more samples gives at least one to each side.
    """
    held_out_parts = []
    for label, positions in _shuffled_classes(labels, seed):
        count = round(fraction * len(positions))
        if len(positions) < 2:
            raise HalutError(f"class {label} has {len(positions)} sample: it cannot be split")
        held_out_parts.append(positions[: min(max(count, 1), len(positions) - 1)])
    held_out = np.concatenate(held_out_parts)
    train_indices = np.setdiff1d(np.arange(len(labels)), held_out)
    return torch.from_numpy(train_indices), torch.from_numpy(np.sort(held_out))


def balanced_subset(labels: Tensor, samples: int, seed: int) -> Tensor:
    """Positions of `samples` samples, as many of every class as possible, shuffled.

    A class that holds fewer than its share gives all it has and the others fill up; the class
    counts then differ by at most one among the classes that could give more. Returns all positions
    if `samples` is larger than their number.
    """
    classes = [positions for _, positions in _shuffled_classes(labels, seed)]
    shares = _level([len(positions) for positions in classes], min(samples, len(labels)))
    subset = np.concatenate([p[:share] for p, share in zip(classes, shares, strict=True)])
    order = np.random.default_rng([seed, 1]).permutation(len(subset))
    return torch.from_numpy(subset[order])


def _shuffled_classes(labels: Tensor, seed: int) -> list[tuple[int, np.ndarray]]:
    """(label, its positions in seeded order) of every class that occurs."""
    array = labels.numpy()
    return [
        (int(label), np.random.default_rng([seed, 0, int(label)]).permutation(positions))
        for label in np.unique(array)
        for positions in [np.flatnonzero(array == label)]
    ]


def _level(sizes: list[int], total: int) -> list[int]:
    """Fill vessels of the given sizes to one level until `total` <= sum(sizes) is spent."""
    level = 0
    while sum(min(size, level + 1) for size in sizes) <= total and level < max(sizes):
        level += 1
    shares = [min(size, level) for size in sizes]
    higher = [c for c, size in enumerate(sizes) if size > level]
    for c in higher[: total - sum(shares)]:
        shares[c] += 1
    return shares
