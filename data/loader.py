"""Loaders that raise a worker's error as it was, and a training loader that resumes exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from halut.data.sampler import TrainBatches
from halut.data.samples import Request, Split, as_fetched
from halut.errors import HalutError

Batch = tuple[Tensor, Tensor]
WORKER_TIMEOUT = 600
"""Seconds to wait for a batch from worker processes: those that run out of memory may hang."""


class BatchLoader(DataLoader[Batch]):
    """Batches of `split` as `batch_sampler` requests them: images [B, C, H, W], labels [B]."""

    def __init__(
        self,
        split: Split,
        batch_sampler: Sampler[Request] | Sequence[Request],
        workers: int = 0,
        persistent: bool = True,
    ) -> None:
        super().__init__(
            split,
            batch_sampler=batch_sampler,  # type: ignore[arg-type]  # a request is not a list
            num_workers=workers,
            persistent_workers=persistent and workers > 0,
            collate_fn=as_fetched,
            timeout=WORKER_TIMEOUT if workers else 0,
            pin_memory=torch.cuda.is_available(),
            # Own generator: without one, making an iterator draws from torch's global generator,
            # and a resumed run would make another number of iterators than the uninterrupted one.
            generator=torch.Generator().manual_seed(0),
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # less than torch's iterator
        return self._raise_errors(super().__iter__())

    def _raise_errors(self, batches: Iterator[Any]) -> Iterator[Batch]:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader timed out" not in str(error):
                    raise
                raise HalutError(
                    f"data.workers={self.num_workers}: no batch came within {WORKER_TIMEOUT} "
                    "seconds; the drive may stand still, or shared memory (/dev/shm) be full: "
                    "data.workers=0 needs none"
                ) from error
            if isinstance(batch, HalutError):
                raise batch
            yield batch


class TrainLoader(BatchLoader):
    """A loader over TrainBatches whose place within the epoch is saved in Lightning's checkpoints.

    `progress` gives (batches processed in this epoch, batches an epoch has here) as its consumer
    counts them; without it a batch counts as processed once it is handed out. The consumer's count
    matters for a checkpoint written in the middle of a step, by a signal.

    Lightning keeps its own count of batches over a restart, so `len` stays the whole epoch's.

    Not torchdata's StatefulDataLoader: its state is that of one rank and of as many workers as
    wrote it, and counts what was handed out. Here any number of either goes on, from one place.
    """

    def __init__(
        self,
        split: Split,
        batch_sampler: TrainBatches,
        workers: int = 0,
        progress: Callable[[], tuple[int, float]] | None = None,
    ) -> None:
        super().__init__(split, batch_sampler, workers)
        self.batches = batch_sampler
        self.progress = progress
        self.handed_out = (0, 0)  # epoch, and how many of its batches
        self._resume_at: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        epoch, start = self._resume_at or (self.batches.epoch, 0)
        self._resume_at = None
        self.batches.set_position(epoch, start)
        self.handed_out = (epoch, start)
        return self._count(super().__iter__(), epoch, start)

    def _count(self, batches: Iterator[Batch], epoch: int, start: int) -> Iterator[Batch]:
        for done, batch in enumerate(batches, start + 1):
            self.handed_out = (epoch, done)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The next batch to process, and what its identity depends on."""
        epoch, done = self.handed_out
        whole: float = len(self)
        if self.progress is not None:
            processed, limit = self.progress()
            done, whole = min(done, processed), min(whole, limit)
        if done >= whole:
            epoch, done = epoch + 1, 0
        return {**self._identity(), "epoch": epoch, "batch": done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the saved place. HalutError if other batches would follow than were due."""
        changed = {
            name: (state[name], now) for name, now in self._identity().items() if state[name] != now
        }
        if changed and state["batch"] > 0:
            changes = ", ".join(f"{name} {old} (now {now})" for name, (old, now) in changed.items())
            raise HalutError(
                f"the checkpoint was written in the middle of an epoch with {changes}: "
                "continue with the same values, or start again in another run folder"
            )
        self._resume_at = (state["epoch"], state["batch"])

    def _identity(self) -> dict[str, int]:
        batches = self.batches
        return {
            "seed": batches.seed,
            "stream": batches.stream,
            "batch_size": batches.batch_size,
            "samples": len(batches.indices),
        }
