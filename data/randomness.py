"""Random numbers that depend on a sample's identity and on nothing else.

A key is a 64-bit hash of integers (seed, stream, epoch, index, ...) by the splitmix64 finalizer
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). Draw number
d of a key is the hash of (key, d): a counter-based generator, so a whole batch is drawn at once and
no generator has a state that could differ between workers, ranks or a resumed run.

numpy's Philox is counter-based too, but a generator of its own for each of 128 samples takes 30
times as long as hashing them at once. Calibration, which draws many numbers of few keys, seeds
numpy's default generator by its keys; either scheme for both would change what earlier runs drew.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def fold(*parts: int | NDArray[np.integer]) -> Keys:
    """Hash integers, broadcast against each other, to one key each: [...] uint64."""
    key: Keys = np.zeros(1, np.uint64)
    for part in parts:
        word = np.uint64(part & (2**64 - 1)) if isinstance(part, int) else part.astype(np.uint64)
        key = _finalize(key + _GOLDEN + word)
    return key


def uniforms(keys: Keys, draw: int) -> NDArray[np.float64]:
    """Draw number `draw` of every key, uniform in [0, 1): keys [B] -> [B]."""
    return (fold(keys, draw) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(keys: Keys, draw: int, high: int) -> NDArray[np.int64]:
    """Draw number `draw` of every key, uniform in 0..high-1: keys [B] -> [B]."""
    return (uniforms(keys, draw) * high).astype(np.int64)


@contextmanager
def isolated(key: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's CPU generators by `key`, and restore them afterwards.

    For transforms of other libraries, which draw from these global generators. torch.manual_seed is
    not used because it would also reseed the generators of every CUDA device.
    """
    python, array, tensor = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    random.seed(key)
    np.random.seed(key % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(key % 2**63)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)  # noqa: NPY002
        torch.random.set_rng_state(tensor)


def _finalize(z: Keys) -> Keys:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
