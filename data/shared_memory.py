"""Shared memory of data loader workers: without enough of it they hang or die."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from halut.data.config import DataConfig
from halut.data.sampler import rank_and_world
from halut.errors import HalutError

SHARED = Path("/dev/shm")
PREFETCHED = 2
"""Batches that each worker makes in advance; torch's default."""
MIB = 2**20


def check_shared_memory(config: DataConfig, shape: Sequence[int]) -> None:
    """HalutError if the batches that all workers may hold at a time are more than what is free.

    `shape` of a sample, float32. Two more batches are those that training works on. Docker gives a
    container 64 MB. Only one loader's workers hold batches at a time.
    """
    if not config.workers or not SHARED.is_dir():
        return
    samples = max(config.batch_size // rank_and_world()[1], config.eval_batch_size)
    batch = 4 * math.prod(shape) * samples
    needed = processes() * (PREFETCHED * config.workers + 2) * batch
    file_system = os.statvfs(SHARED)
    free = file_system.f_bavail * file_system.f_frsize
    if needed > free:
        raise HalutError(
            f"data.workers={config.workers} need {needed / MIB:,.0f} MiB of shared memory for "
            f"batches of {samples}, but {SHARED} has {free / MIB:,.0f} free: enlarge it (docker "
            f"run --shm-size={math.ceil(needed / 2**30)}g), or take fewer workers, a smaller "
            "data.batch_size and data.eval_batch_size, or data.workers=0, which needs none"
        )


def processes() -> int:
    """Ranks on this machine."""
    if "RANK" not in os.environ:
        return 1
    count = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or "1"
    return int(count) if count.isdecimal() else 1
