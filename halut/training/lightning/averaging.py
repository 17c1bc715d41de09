"""Exponential moving average of weights, except those that do not train."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from halut.training.lightning.sharded_fit import ShardedModule, ShardedStrategy
from halut.training.parallel.full_state import model_state


class AveragedWeights(WeightAveraging):
    """average += (1 - decay) (weight - average) after every step; integers are taken as they are.

    Lightning's own computes decay * average + (1 - decay) * weight, for integers too, and cuts what
    a rounding leaves at 6.9999 down to 6: a tree would then test another input.
    The average of a sharded network is in the same shards, and whole in checkpoints.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            if not averaged.is_floating_point():
                return current
            return averaged.lerp(current.to(averaged.dtype), 1 - decay)

        super().__init__(avg_fn=average)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, ShardedModule):
            assert isinstance(trainer.strategy, ShardedStrategy)
            assert self._average_model is not None
            averaged = self._average_model.module
            assert isinstance(averaged, ShardedModule)
            pl_module.shard(averaged.network, trainer.strategy.mesh)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if isinstance(pl_module, ShardedModule):
            assert self._average_model is not None
            checkpoint["state_dict"] = model_state(self._average_model.module)
