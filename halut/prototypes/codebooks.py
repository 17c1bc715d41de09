"""Parallel learning of codebooks over ranks and threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from halut.errors import HalutError

Learned = TypeVar("Learned")


@dataclass(frozen=True)
class Ranks:
    """Processes that learn together: `exchange` gives every rank's list for this one's."""

    rank: int
    count: int
    exchange: Callable[[Callable[[], list[Any]]], list[list[Any]]]


_ranks: ContextVar[Ranks | None] = ContextVar("ranks", default=None)


@contextmanager
def shared_out(ranks: Ranks) -> Iterator[None]:
    """Within, every rank learns each `ranks.count`-th codebook; all must call for the same ones."""
    token = _ranks.set(ranks)
    try:
        yield
    finally:
        _ranks.reset(token)


def each_codebook(
    learn: Callable[[int], Learned], codebooks: int, threads: int | None = None
) -> Iterator[Learned]:
    """learn(0), learn(1) ... in order, on torch.get_num_threads() threads, or so many.

    With more than one thread faiss runs on one inside: a codebook's k-means is too small to be
    shared out, and two threads that wait for each other in it were several times slower than one.
    Raises HalutError if faiss is missing.
    """
    ranks = _ranks.get()
    if ranks is None:
        yield from _learned(learn, range(codebooks), threads)
        return
    mine = range(ranks.rank, codebooks, ranks.count)
    by_rank = ranks.exchange(lambda: list(_learned(learn, mine, threads)))
    for c in range(codebooks):
        yield by_rank[c % ranks.count][c // ranks.count]


def _learned(
    learn: Callable[[int], Learned], codebooks: range, threads: int | None
) -> Iterator[Learned]:
    if threads == 1:
        yield from map(learn, codebooks)
        return
    with ThreadPoolExecutor(
        threads or torch.get_num_threads(), initializer=_one_faiss_thread
    ) as pool:
        yield from pool.map(learn, codebooks)


def faiss_module() -> Any:
    """The faiss package; HalutError with what to install if it is missing."""
    try:
        import faiss
    except ImportError as error:
        message = "k-means needs faiss: pip install faiss-cpu (the tree encoder works without)"
        raise HalutError(message) from error
    return faiss


def _one_faiss_thread() -> None:
    # OpenMP keeps this number per thread: the caller's own setting stays as it is.
    faiss_module().omp_set_num_threads(1)
