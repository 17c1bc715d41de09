"""Averaged weights that leave alone what does not move."""

from __future__ import annotations

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class AveragedWeights(WeightAveraging):
    """average += (1 - decay) (weight - average) after every step; integers are taken as they are.

    Lightning's own computes decay * average + (1 - decay) * weight, for integers too, and cuts what
    a rounding leaves at 6.9999 down to 6: a tree would then test another input.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            if not averaged.is_floating_point():
                return current
            return averaged.lerp(current.to(averaged.dtype), 1 - decay)

        super().__init__(avg_fn=average)
