"""Resume checkpoint of a fit, folder/last.ckpt: written periodically and on signals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from halut.errors import HalutError
from halut.training.cluster.interruption import Interrupted, signal_handler
from halut.training.parallel.distributed import maximum

BEFORE_VALIDATION = 30.0
"""Seconds of training worth a checkpoint before an epoch's last step: validation may be cut off."""


class LastCheckpoint(Checkpoint):
    """Saves after every `every` optimizer steps, after `minutes`, and on a signal.

    All ranks decide together, after a whole optimizer step, and so write and end together; in a
    validation, whose batches the ranks do not share evenly, each ends by itself.
    Lightning would leave out the validation of an epoch whose checkpoint was written after its
    last step: what is due there is written after the validation.
    """

    def __init__(self, path: Path, every: int, minutes: float | None) -> None:
        self.path = path
        self.every = every
        self.seconds = float("inf") if minutes is None else 60 * minutes
        self.saved_at = time.monotonic()
        self.due = False
        self.ending = 0
        self.started = False

    @contextmanager
    def resuming(self) -> Iterator[None]:
        """What fails in here before training starts fails because of what `path` holds."""
        try:
            yield
        except Exception as error:
            memory = "memory" in str(error)
            if self.started or memory or isinstance(error, HalutError | OSError):
                raise
            message = " ".join(str(error).split())[:200]
            raise HalutError(
                f"{self.path}: damaged, or the checkpoint of another run "
                f"({type(error).__name__}: {message}); delete it to train this stage again"
            ) from error

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signal_handler.install()  # Lightning has put its own handlers in front
        self.saved_at = time.monotonic()
        self.started = True

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        after, batches = batch_idx + 1, trainer.num_training_batches
        size = trainer.accumulate_grad_batches
        if after % size and after != batches:
            return
        age = time.monotonic() - self.saved_at
        ends_soon = after < batches <= after + size and age > BEFORE_VALIDATION
        self.due = self.due or trainer.global_step % self.every == 0
        timed = age >= self.seconds or ends_soon
        signal, agreed = maximum(signal_handler.received, int(timed))
        self.due = self.due or bool(signal or agreed)
        if self.due and after != batches:
            self._save(trainer)
            self.ending = signal

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """End here, not where the place was saved: the step's figures are logged in between."""
        if self.ending:
            raise Interrupted(self.ending)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """While validating a run may end where it stands: what it trained is saved, or little."""
        signal_handler.install()
        if trainer.state.fn == "fit":
            signal_handler.state = "running"
            signal_handler.raise_if_received()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        signal_handler.state = "fitting"
        if self.due and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self._save(trainer)
        self.due = False

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self.saved_at, self.due = time.monotonic(), False
