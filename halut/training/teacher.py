"""Who the network learns from: its exact self, or another model."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from halut.errors import HalutError
from halut.models.build import build_model
from halut.models.weights import load_weights
from halut.training.config import LossConfig


def make_teacher(network: nn.Module, data: Any, loss: LossConfig) -> nn.Module | None:
    """A frozen teacher in evaluation mode, or None if no loss asks for one."""
    if not (loss.distill or loss.features):
        return None
    if loss.teacher is None:
        teacher = copy.deepcopy(network)
    else:
        if loss.features:
            raise HalutError(
                "loss.features compares with the exact network: leave loss.teacher out"
            )
        pretrained = loss.teacher_weights is None
        teacher = build_model(
            loss.teacher, data.num_classes, data.input_shape[0], pretrained=pretrained
        )
        if loss.teacher_weights is not None:
            load_weights(teacher, loss.teacher_weights)
    return teacher.eval().requires_grad_(False)
