"""Codebooks are learned apart from each other: one thread takes one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from halut.errors import HalutError

Learned = TypeVar("Learned")


def each_codebook(learn: Callable[[int], Learned], codebooks: int) -> Iterator[Learned]:
    """learn(0), learn(1) ... in order, on torch.get_num_threads() threads.

    Inside, faiss runs on one thread: a codebook's k-means is too small to be shared out, and two
    threads that wait for each other in it were several times slower than one.
    Raises HalutError if faiss is missing.
    """
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=_one_faiss_thread) as pool:
        yield from pool.map(learn, range(codebooks))


def faiss_module():
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
