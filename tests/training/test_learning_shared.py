"""Work dealt to ranks: codebooks, and whole sites; checked rank by rank, in one process."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch

from halut.encoders import encoders
from halut.errors import HalutError
from halut.layers.relearn import relearn
from halut.ops.blocks import Blocks
from halut.prototypes.codebooks import Ranks, each_codebook, shared_out
from halut.replace.operator_registry import make_operator
from halut.sites.find import Site
from halut.sites.plan import Entry
from halut.training.calibrate import assign_sites_to_ranks
from halut.training.parallel.distributed import maximum, run_on_all_ranks
from halut.training.parallel.gather import codebook_ranks


class Waits(BaseException):
    """A rank gave its share and would wait for those of the others."""


def with_ranks(count, work):
    """work() on every rank, whose lists go round as real exchanges would send them.

    Returns what each exchange sent round, and what each rank ends with.
    """
    rounds = []

    def on(rank):
        calls = iter(range(len(rounds) + 1))

        def exchange(learn):
            call = next(calls)
            if call < len(rounds):
                return rounds[call]
            shares.append(learn())
            raise Waits

        with shared_out(Ranks(rank, count, exchange)):
            return work()

    while True:
        shares, results = [], []
        for rank in range(count):
            with contextlib.suppress(Waits):
                results.append(on(rank))
        if results:
            assert len(results) == count
            return rounds, results
        rounds.append(shares)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_codebook_is_learned_once_and_all_ranks_have_it(ranks):
    learned = []
    (shares,), actual = with_ranks(
        ranks, lambda: list(each_codebook(lambda c: learned.append(c) or c * c, 5, threads=1))
    )
    assert sorted(learned) == list(range(5))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert actual == [[0, 1, 4, 9, 16]] * ranks


@pytest.mark.parametrize("name", ["tree", "pq", "decision_tree"])
def test_shared_out_learning_is_that_of_one_process(name):
    rows = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))

    def learn():
        encoder = encoders[name](Blocks(12, 5), 4)
        prototypes = encoder.calibrate(rows, seed=3)
        return [prototypes, *encoder.state_dict().values()]

    alone = learn()
    for actual in with_ranks(2, learn)[1]:
        assert all(a.equal(b) for a, b in zip(alone, actual, strict=True))


@pytest.mark.parametrize("name", ["tree", "pq", "decision_tree"])
def test_relearning_shared_out_is_that_of_one_process(name):
    site = Site("site", "linear", D=12, M=6)
    generator = torch.Generator().manual_seed(0)
    rows, moved = (torch.randn(300, 12, generator=generator) for _ in range(2))
    learned = make_operator(name, C=5, K=4).build(site, torch.nn.Linear(12, 6))
    learned.calibrate(rows)

    def learn():
        layer = copy.deepcopy(learned)
        assert relearn([layer], 3 * moved + 1, seed=3)
        return list(layer.state_dict().values())

    alone = learn()
    for actual in with_ranks(2, learn)[1]:
        assert all(a.equal(b) for a, b in zip(alone, actual, strict=True))


def entry(name: str, D: int, shares: str | None = None) -> Entry:
    return Entry(Site(name, "linear", D, 8), "pq", {}, shares=shares)


def test_sites_go_to_who_has_least_and_sharing_ones_together():
    entries = [entry("a", 100), entry("q", 40, "q"), entry("k", 40, "q"), entry("b", 10)]
    assert assign_sites_to_ranks(entries, 2) == {"a": 0, "q": 1, "k": 1, "b": 1}
    assert set(assign_sites_to_ranks(entries, 1).values()) == {0}


def test_one_process_needs_no_group():
    assert maximum(3, 0) == [3, 0]
    assert codebook_ranks().exchange(lambda: [1, 2]) == [[1, 2]]
    with pytest.raises(HalutError, match="wrong"):
        run_on_all_ranks(lambda: (_ for _ in ()).throw(HalutError("wrong")))
