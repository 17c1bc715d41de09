"""Progress and remaining time of a whole run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.callbacks import Callback

LOG_INTERVAL_SECONDS = 60.0
"""Seconds between lines where the output is no terminal."""


@dataclass
class Part:
    """One part of a run: how it is called, what work it is of, and how much.

    `work` is an estimate in training batches of the exact network; parts of one `kind` take time in
    proportion to it. `share` of it is done; `seconds` were measured for `measured` of it.
    """

    name: str
    kind: str
    work: float
    label: str = ""
    share: float = 0.0
    measured: float = 0.0
    seconds: float = 0.0


class WholeRun:
    """The parts of one run, and where it is. What has been measured of a kind tells the rest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.begin([])

    def begin(self, parts: Sequence[Part]) -> None:
        """A run of these parts begins."""
        self.parts = {part.name: part for part in parts}
        self.now: Part | None = None
        self.what = ""
        self.logged_at = self.clock()
        self.first_share: tuple[float, float] | None = (
            None  # clock and share as they were noted first
        )

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The part `name` is worked on; parts that the run has not announced are not counted."""
        outer, self.now = self.now, self.parts.get(name)
        self.what, self.first_share, begun = "", None, self.clock()
        try:
            yield
            if self.now is not None:
                if self.now.measured == 0.0:
                    self.now.measured, self.now.seconds = 1.0, self.clock() - begun
                self.now.share = 1.0
        finally:
            self.now, self.what = outer, ""

    def skip(self, name: str) -> None:
        """The part was finished earlier."""
        self.parts.pop(name, None)

    def at(self, what: str, share: float | None = None) -> None:
        """Note what is done, and which share of the part."""
        self.what = what
        if self.now is None or share is None:
            return
        self.now.share = share
        if self.first_share is None:  # a fit that is continued begins in its middle
            self.first_share = self.clock(), share
        begun, first = self.first_share
        self.now.measured, self.now.seconds = share - first, self.clock() - begun

    def due(self) -> bool:
        """True once in LOG_INTERVAL_SECONDS seconds."""
        if self.clock() - self.logged_at < LOG_INTERVAL_SECONDS:
            return False
        self.logged_at = self.clock()
        return True

    @property
    def position(self) -> str:
        """stage 3 of 8, epoch 2 of 5."""
        label = self.now.label or self.now.name if self.now is not None else ""
        return ", ".join(each for each in (label, self.what) if each)

    def seconds_left(self) -> float | None:
        """Seconds the whole run still takes; None as long as nothing is measured."""
        elapsed: dict[str, float] = {}
        done: dict[str, float] = {}
        for part in self.parts.values():
            if part.measured:
                elapsed[part.kind] = elapsed.get(part.kind, 0.0) + part.seconds
                done[part.kind] = done.get(part.kind, 0.0) + part.work * part.measured
        if not sum(done.values()):
            return None
        mean = sum(elapsed.values()) / sum(done.values())
        rate = {kind: elapsed[kind] / done[kind] for kind in done if done[kind]}
        return sum(
            part.work * (1 - part.share) * rate.get(part.kind, mean) for part in self.parts.values()
        )

    def remaining(self) -> str:
        """The time left in words, or nothing."""
        seconds = self.seconds_left()
        return "" if seconds is None else f"{duration(seconds)} left"

    def line(self) -> str:
        """Where the run is and how long it still takes."""
        return ", ".join(each for each in (self.position, self.remaining()) if each)


run = WholeRun()
"""The run of this process."""


def duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class TrainerProgress(Callback):
    """Tells `show` of a Trainer's batches: what is done, batches done, of how many."""

    def __init__(self, show: Callable[[str, int, int], None]) -> None:
        self.show = show

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        total, epochs = int(trainer.num_training_batches), int(trainer.max_epochs)
        done = trainer.current_epoch * total + batch_idx + 1
        run.at(f"epoch {trainer.current_epoch + 1} of {epochs}", done / max(total * epochs, 1))
        self.show(run.what, batch_idx + 1, total)

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.show("validation", batch_idx + 1, int(trainer.num_val_batches[0]))

    def on_test_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.show("test", batch_idx + 1, int(trainer.num_test_batches[0]))
