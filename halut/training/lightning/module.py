"""LightningModule of one stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from halut.errors import HalutError
from halut.replace.after_step import after_step
from halut.replace.swap import replaced_layers
from halut.training.config.run_config import LossConfig
from halut.training.lightning.losses import Features, TableLosses, distillation, feature_loss
from halut.training.optim.lr_schedules import NamedSchedule, make_schedule
from halut.training.optim.optimizers import make_optimizer
from halut.training.parallel.distributed import share_buffers
from halut.training.parallel.full_state import load_optimizer_state, optimizer_state

TABLE_LOSSES = ("reconstruction", "commitment")
"""Options of LossConfig that weigh losses of LUTLayer.table_losses."""


@dataclass
class Recipe:
    """How one fit learns, resolved: rates per role, loss weights, the seed of its stage.

    `steps` are the optimizer's in the whole fit, of `epochs` epochs. Lightning's own estimate would
    load the training data before a checkpoint's place in it is restored, and then start the epoch
    over.
    """

    optimizer: str
    lr: dict[str, float]
    weight_decay: dict[str, float]
    loss: LossConfig
    momentum: float = 0.9
    warmup: float = 0.05
    schedule: str = "cosine"
    floor: float = 0.01
    freeze: list[str] = field(default_factory=list)
    seed: int = 0
    steps: int = 1
    epochs: int = 1
    feature_blocks: list[str] = field(default_factory=list)
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    schedule_options: dict[str, Any] = field(default_factory=dict)
    schedule_interval: str | None = None


class StageModule(L.LightningModule):
    """Trains `network` on labels and, if given, on a teacher's logits and block features.

    The random state is set before every batch from (seed, step, rank), so that a resumed run draws
    what the uninterrupted one would have drawn. The teacher is no part of the state.
    """

    def __init__(
        self, network: nn.Module, num_classes: int, recipe: Recipe, teacher: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")
        self._teacher = (teacher,) if teacher is not None else ()  # a tuple: not a submodule
        losses = [name for name in TABLE_LOSSES if getattr(recipe.loss, name)]
        self._table_losses = TableLosses(network, losses) if losses else None
        self._saved_optimizers: list[Any] | None = None
        self._features: tuple[Features, Features] | None = None
        if teacher is not None and recipe.loss.features and recipe.feature_blocks:
            names = recipe.feature_blocks
            self._features = Features(network, names), Features(teacher, names)

    @property
    def whole(self) -> nn.Module:
        """The network as it is measured and saved."""
        return self.network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def on_fit_start(self) -> None:
        for teacher in self._teacher:
            teacher.to(self.device).eval().requires_grad_(False)
        if self._saved_optimizers is not None:
            (state,) = self._saved_optimizers
            load_optimizer_state(self.network, self.trainer.optimizers[0], state)
            self._saved_optimizers = None

    def on_train_start(self) -> None:
        if self.global_step:  # a checkpoint has what layers know of their progress
            return
        for _, layer in replaced_layers(self.network):
            layer.begin_fit(0.0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seed = hash((self.recipe.seed, self.global_step, batch_idx, self.global_rank))
        torch.manual_seed(seed & 0x7FFFFFFF)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, target = batch
        logits = self.network(x)
        loss = self._loss(logits, x, target)
        if not bool(torch.isfinite(loss)):
            raise HalutError(
                f"the loss is {float(loss.detach())} at step {self.global_step}: lower optim.lr, "
                "or base.lr where the exact network trains"
            )
        return loss

    def _loss(self, logits: Tensor, x: Tensor, target: Tensor) -> Tensor:
        weights = self.recipe.loss
        hard = F.cross_entropy(logits.float(), target, label_smoothing=weights.label_smoothing)
        self.log("train/cross_entropy", hard.detach())
        loss = hard
        if self._teacher and (weights.distill or self._features):
            with torch.no_grad():
                teacher_logits = self._teacher[0](x)
            soft = distillation(logits, teacher_logits, weights.temperature)
            self.log("train/distillation", soft.detach())
            loss = (1 - weights.distill) * hard + weights.distill * soft
        if self._features is not None:
            features = feature_loss(*self._features)
            self.log("train/features", features.detach())
            loss = loss + weights.features * features
        if self._table_losses is not None:
            for name, value in self._table_losses.take().items():
                self.log(f"train/{name}", value.detach().to(loss))
                loss = loss + getattr(weights, name) * value.to(loss)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The step, then the operators' own: moving averages, temperatures, re-solved bases."""
        super().optimizer_step(*args, **kwargs)
        progress = self.global_step / max(self.recipe.steps, 1)
        layers = (layer for _, layer in replaced_layers(self.network))
        after_step(layers, progress, self.trainer.optimizers)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        r = self.recipe
        optimizer = make_optimizer(
            self.network,
            r.optimizer,
            r.lr,
            r.weight_decay,
            r.momentum,
            r.freeze,
            r.optimizer_options,
        )
        schedule = make_schedule(
            optimizer,
            r.steps,
            r.warmup,
            r.schedule,
            r.floor,
            r.schedule_options,
            r.schedule_interval,
            r.epochs,
        )
        stepped: Any = {"scheduler": schedule, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": stepped}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Every schedule counts steps by itself; see NamedSchedule."""
        scheduler.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Optimizer states go by name; Lightning's are numbered, and of shards each rank's own."""
        optimizer = self.trainer.optimizers[0]
        checkpoint["optimizer_states"] = [optimizer_state(self.network, optimizer)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """`on_fit_start` loads them, when there is an optimizer; to Lightning none are left."""
        self._saved_optimizers, checkpoint["optimizer_states"] = checkpoint["optimizer_states"], []

    def teardown(self, stage: str) -> None:
        """Take the hooks off: the network goes on into the next stage without them."""
        for hooks in (self._table_losses, *(self._features or ())):
            if hooks is not None:
                hooks.remove()

    # -- evaluation: accuracy counts every sample once, over all ranks ------------------------

    def on_validation_epoch_start(self) -> None:
        """All ranks measure the same network."""
        share_buffers(self.network)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._score(batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._score(batch)

    def _score(self, batch: tuple[Tensor, Tensor]) -> None:
        x, target = batch
        self.accuracy.update(self.whole(x).argmax(dim=1), target)

    def on_validation_epoch_end(self) -> None:
        accuracy = self._log_accuracy("val/accuracy")
        schedule = self.lr_schedulers() if self.trainer.state.fn == "fit" else None
        if isinstance(schedule, NamedSchedule):
            schedule.validated(accuracy)

    def on_test_epoch_end(self) -> None:
        self._log_accuracy("test/accuracy")

    def _log_accuracy(self, name: str) -> float:
        accuracy = 100 * self.accuracy.compute()
        self.log(name, accuracy, prog_bar=True)
        self.accuracy.reset()
        return float(accuracy)
