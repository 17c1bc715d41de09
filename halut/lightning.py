"""A Lightning callback for projects with a LightningModule of their own."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from halut.api import attach
from halut.errors import HalutError
from halut.replace.swap import replaced_layers

__all__ = ["HalutCallback"]


class HalutCallback(Callback):
    """Does after every optimizer step of a fit what replaced layers need: `halut.attach`.

    Replace layers before `trainer.fit`, so that `configure_optimizers` finds their parameters
    (`halut.param_groups(self)` sorts them by role). Progress is the share of
    `trainer.estimated_stepping_batches` that is done, or of `steps`; a resumed fit goes on where it
    stopped. Automatic and manual optimization, gradient accumulation and any number of optimizers
    are fine; a strategy that replaces torch's optimizers by its own (DeepSpeed) is not.

    >>> trainer = Trainer(callbacks=[HalutCallback()], logger=False)  # doctest: +SKIP

    Raises HalutError when training starts if nothing is replaced, no optimizer trains the replaced
    layers, or the number of steps is not known.
    """

    def __init__(self, steps: int | None = None) -> None:
        self.steps = steps
        self.handles: list[Any] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        layers = [layer for _, layer in replaced_layers(pl_module)]
        own = {id(p) for layer in layers for p in layer.parameters()}
        training = [
            optimizer
            for optimizer in trainer.optimizers
            if any(id(p) in own for group in optimizer.param_groups for p in group["params"])
        ]
        steps = trainer.estimated_stepping_batches if self.steps is None else self.steps
        if steps == float("inf"):
            raise HalutError("the trainer has no end: give HalutCallback(steps=...)")
        # Several optimizers train parts of the layers: the first one's steps are counted.
        for optimizer in (training or trainer.optimizers)[:1]:
            start, others = min(trainer.global_step, int(steps)), training[1:]
            self.handles.append(attach(optimizer, pl_module, max(int(steps), 1), start, others))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: Any) -> None:
        self._detach()

    def _detach(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []
