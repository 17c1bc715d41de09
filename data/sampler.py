"""Batch sampler: a pure function of (seed, stream, epoch, position).

Batches are laid out over all ranks first and dealt to the ranks afterwards, so batch number k holds
the same samples whatever the number of ranks is, and a run may continue with another one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from halut.data.randomness import fold
from halut.data.samples import Request
from halut.errors import HalutError


def rank_and_world() -> tuple[int, int]:
    """This process' rank and their number; (0, 1) where torch.distributed is not initialized."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class TrainBatches(Sampler[Request]):
    """Shuffled training batches of `indices` [n], `batch_size` samples over all ranks together.

    The tail that does not fill a batch is dropped (another one in every epoch). If not even one
    batch is full, the single batch holds as many samples as the ranks can share evenly.

    Raises HalutError if the ranks cannot share a batch evenly.
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        seed: int,
        stream: int = 0,
        shard: tuple[int, int] | None = None,
    ) -> None:
        self.indices, self.seed, self.stream = indices, seed, stream
        self.rank, self.world = shard if shard is not None else rank_and_world()
        if batch_size % self.world:
            raise HalutError(
                f"data.batch_size counts the samples of one step over all {self.world} processes "
                f"and must be a multiple of {self.world}, got {batch_size}"
            )
        if len(indices) < self.world:
            raise HalutError(f"{len(indices)} training samples for {self.world} processes")
        self.batch_size = min(batch_size, len(indices) // self.world * self.world)
        self.epoch = 0
        self.start = 0

    @property
    def sampler(self) -> TrainBatches:
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next `iter` gives, from its first batch."""
        self.epoch, self.start = epoch, 0

    def set_position(self, epoch: int, start: int) -> None:
        """The next `iter` gives `epoch` from batch number `start`."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Batches in a whole epoch, wherever the next one starts."""
        return len(self.indices) // self.batch_size

    def __iter__(self) -> Iterator[Request]:
        # Bound here, not at the first `next`: Lightning sets the epoch between the two.
        return self._requests(self.epoch, self.start)

    def order(self, epoch: int) -> Tensor:
        """The whole epoch's indices [n], over all ranks."""
        key = int(fold(self.seed, self.stream, epoch)[0])
        shuffled = np.random.default_rng(key).permutation(len(self.indices))
        return self.indices[torch.from_numpy(shuffled)]

    def _requests(self, epoch: int, start: int) -> Iterator[Request]:
        order = self.order(epoch)
        for batch in range(start, len(self)):
            step = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            mine = step[self.rank :: self.world]
            yield Request(mine, fold(self.seed, self.stream, epoch, mine.numpy()))


class OrderedBatches(Sampler[Request]):
    """`indices` [n] in order, every one on exactly one rank; the ranks' counts differ by <= 1."""

    def __init__(
        self, indices: Tensor, batch_size: int, shard: tuple[int, int] | None = None
    ) -> None:
        rank, world = shard if shard is not None else rank_and_world()
        self.indices, self.batch_size = indices[rank::world], batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Request]:
        return (Request(indices) for indices in self.indices.split(self.batch_size) if len(indices))
