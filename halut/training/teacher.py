"""Teacher networks for distillation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import nn

from halut.errors import HalutError
from halut.models.build import PLUGIN, build_model, find_source
from halut.models.weights import load_weights
from halut.training.config.run_config import LossConfig
from halut.training.lightning.losses import check_blocks


def check_loss(network: nn.Module, loss: LossConfig) -> None:
    """Raise HalutError if the losses ask for a teacher or for blocks that cannot be had.

    For the start of a run: `make_teacher` comes after the base is trained.
    """
    if loss.features:
        check_blocks(network, loss.feature_blocks)
    if loss.teacher is None or not (loss.distill or loss.features):
        return
    if loss.features:
        raise HalutError("loss.features compares with the exact network: leave loss.teacher out")
    unpublished = find_source(loss.teacher) in ("local", PLUGIN)
    if unpublished and loss.teacher_weights is None:
        raise HalutError(
            f"loss.teacher={loss.teacher} has no published weights: give loss.teacher_weights=FILE"
        )
    if loss.teacher_weights is not None and not Path(loss.teacher_weights).is_file():
        raise HalutError(f"loss.teacher_weights: {loss.teacher_weights} is no file")


def make_teacher(network: nn.Module, data: Any, loss: LossConfig) -> nn.Module | None:
    """A frozen teacher in evaluation mode, or None if no loss asks for one."""
    if not (loss.distill or loss.features):
        return None
    check_loss(network, loss)
    if loss.teacher is None:
        teacher = copy.deepcopy(network)
    else:
        pretrained = loss.teacher_weights is None
        teacher = build_model(
            loss.teacher, data.num_classes, data.input_shape[0], pretrained=pretrained
        )
        if loss.teacher_weights is not None:
            load_weights(teacher, loss.teacher_weights)
    return teacher.eval().requires_grad_(False)
