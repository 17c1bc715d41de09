"""Splits, subsets and the counter-based random numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halut import data
from halut.data.loader import TrainLoader
from halut.data.randomness import fold, integers, isolated, uniforms
from halut.data.sampler import TrainBatches
from halut.data.splits import balanced_subset, stratified_split
from halut.errors import HalutError

SIZES = st.lists(st.integers(2, 30), min_size=1, max_size=6)


def labels_of(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return torch.from_numpy(np.random.default_rng(seed).permutation(labels))


@given(SIZES, st.floats(0.05, 0.95), st.integers(0, 5))
def test_stratified_split_parts_every_class(sizes, fraction, seed):
    labels = labels_of(sizes)
    train_indices, test_indices = stratified_split(labels, fraction, seed)
    assert sorted([*train_indices.tolist(), *test_indices.tolist()]) == list(range(len(labels)))
    for c, size in enumerate(sizes):
        count = int((labels[test_indices] == c).sum())
        assert 1 <= count <= size - 1
        assert abs(count - fraction * size) <= 1
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            stratified_split(labels, fraction, seed), (train_indices, test_indices), strict=True
        )
    )


def test_class_of_one_sample_cannot_be_split():
    with pytest.raises(HalutError, match="class 1 has 1 sample"):
        stratified_split(labels_of([5, 1]), 0.5, 0)


@given(SIZES, st.integers(1, 200))
def test_balanced_subset_is_as_level_as_the_classes_allow(sizes, samples):
    labels = labels_of(sizes)
    subset = balanced_subset(labels, samples, 0)
    assert len(subset) == len(set(subset.tolist())) == min(samples, len(labels))
    counts = torch.bincount(labels[subset], minlength=len(sizes)).tolist()
    top = max(counts)
    assert all(count >= top - 1 or count == size for count, size in zip(counts, sizes, strict=True))


def test_uniforms_are_uniform_and_independent():
    keys = fold(7, np.arange(20000))
    a, b = uniforms(keys, 0), uniforms(keys, 1)
    histogram = np.histogram(a, 20, (0, 1))[0]
    assert ((histogram - 1000) ** 2 / 1000).sum() < 50  # chi-square, 19 degrees of freedom
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.02
    assert set(integers(keys, 2, 5)) == {0, 1, 2, 3, 4}
    assert len(set(keys.tolist())) == 20000


def test_fold_distinguishes_its_parts():
    keys = [fold(*parts)[0] for parts in ((1, 2), (2, 1), (1, 2, 0), (3,), (0, 3), (12,))]
    assert len(set(keys)) == len(keys)


def test_isolated_repeats_and_restores():
    def draw():
        return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002

    torch.manual_seed(0)
    before = torch.get_rng_state()
    with isolated(2**64 - 1):
        one = draw()
    with isolated(2**64 - 1):
        assert draw() == one
    with pytest.raises(KeyError), isolated(5):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_must_divide_among_the_processes():
    with pytest.raises(HalutError, match="must be a multiple of 3, got 8"):
        TrainBatches(torch.arange(100), 8, seed=0, shard=(0, 3))


def test_fewer_samples_than_a_batch_give_one_batch():
    batches = TrainBatches(torch.arange(7), 8, seed=0, shard=(1, 2))
    assert len(batches) == 1
    assert [len(request.indices) for request in batches] == [3]


def test_rank_and_number_of_processes_come_from_torch_distributed(monkeypatch):
    for name, value in (("is_initialized", True), ("get_rank", 1), ("get_world_size", 2)):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda value=value: value)
    train = [request.indices for request in TrainBatches(torch.arange(12), 4, seed=0)]
    monkeypatch.undo()
    whole = [request.indices for request in TrainBatches(torch.arange(12), 4, seed=0)]
    assert all(torch.equal(a, b[1::2]) for a, b in zip(train, whole, strict=True))


def test_another_number_of_processes_continues_at_the_same_batch():
    module = data.build("digits", batch_size=8)
    module.setup()
    train = module.splits["train"]
    alone = TrainLoader(train, TrainBatches(train.indices, 8, seed=0, shard=(0, 1)))
    batches = iter(alone)
    for _ in range(3):
        next(batches)
    shards = [TrainBatches(train.indices, 8, seed=0, shard=(rank, 2)) for rank in range(2)]
    pair = [TrainLoader(train, shard) for shard in shards]
    for loader in pair:
        loader.load_state_dict(alone.state_dict())
    rest = zip(batches, *pair, strict=True)
    equal = [torch.equal(w[0::2], a) and torch.equal(w[1::2], b) for (w, _), (a, _), (b, _) in rest]
    assert equal == [True] * (len(alone) - 3)
