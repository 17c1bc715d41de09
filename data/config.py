"""Base configuration of data sets; each adds its own fields in a subclass."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from halut.errors import HalutError
from halut.option import every, of_training_runs, option, where, while_training


def of_validation(own: Any, run: Any) -> str | None:
    """What training runs read, and evaluations of the validation split."""
    if run.trains or run.split == "val":
        return None
    return f"the split is {run.split}; it needs split=val"


@dataclass
class DataConfig:
    """`batch_size` counts samples over all processes, so that a run keeps its steps when the number
    of devices changes.

    `split_seed` alone decides which samples are trained on and which validate; `seed` decides the
    order and the augmentation, so runs of several seeds compare on one split.
    """

    name: str = option("", "the data set")
    root: str | None = option(None, "folder of its files; null: the variable HALUT_DATA")
    batch_size: int = option(
        128, "training samples of a step over all processes", needs=of_training_runs
    )
    eval_batch_size: int = option(512, "other samples of a batch of each process")
    workers: int = option(0, "loading processes of each process; 0: none")
    seed: int = option(0, "of order and augmentation; 0: the run's", needs=of_training_runs)
    split_seed: int = option(0, "of the choice of validation samples")
    train_samples: int | None = option(
        None, "use so many training samples; null: all", needs=of_training_runs
    )
    val_samples: int | None = option(
        None, "use so many validation samples; null: all", needs=of_validation
    )
    val_fraction: float = option(0.1, "share of the training samples that validate")
    download: bool = option(False, "fetch the files into root if they are not there")
    mean: list[float] | None = option(None, "of each channel, which normalizes; null: its own")
    std: list[float] | None = option(None, "as mean")
    mixup: float = option(0.0, "alpha of mixup; 0: none", needs=while_training)
    cutmix: float = option(0.0, "alpha of cutmix; 0: none", needs=while_training)
    mixup_prob: float = option(
        1.0,
        "share of batches that are mixed",
        needs=every(
            while_training,
            where(
                lambda own: own.mixup or own.cutmix, "it needs data.mixup or data.cutmix above 0"
            ),
        ),
    )

    def check(self) -> None:
        """HalutError naming the first field whose value cannot work, and its range."""
        for field, low in (("batch_size", 1), ("eval_batch_size", 1), ("workers", 0)):
            if getattr(self, field) < low:
                raise HalutError(f"data.{field} must be at least {low}, got {getattr(self, field)}")
        for field in ("seed", "split_seed", "mixup", "cutmix"):
            if getattr(self, field) < 0:
                raise HalutError(f"data.{field} must not be negative, got {getattr(self, field)}")
        for field in ("train_samples", "val_samples"):
            if getattr(self, field) is not None and getattr(self, field) < 1:
                raise HalutError(f"data.{field} must be at least 1, got {getattr(self, field)}")
        if not 0 < self.val_fraction < 1:
            raise HalutError(f"data.val_fraction must be within (0, 1), got {self.val_fraction}")
        if not 0 <= self.mixup_prob <= 1:
            raise HalutError(f"data.mixup_prob must be within 0..1, got {self.mixup_prob}")
        for field in ("mean", "std"):
            if not all(math.isfinite(value) for value in getattr(self, field) or ()):
                raise HalutError(f"data.{field} must be finite, got {getattr(self, field)}")
        if self.std is not None and min(self.std, default=1) <= 0:
            raise HalutError(f"data.std must be positive, got {self.std}")

    def expected_shape(self) -> tuple[tuple[int, int, int], int] | None:
        """(C, H, W) of the inputs and the number of classes, where options alone decide them."""
        return None

    @classmethod
    def of(cls, options: dict[str, Any]) -> DataConfig:
        """The configuration with `options`; HalutError naming the choices for an unknown one."""
        names = [field.name for field in fields(cls)]
        for name in options:
            if name not in names:
                raise HalutError(f"unknown data option {name!r}; choose of: {', '.join(names)}")
        config = cls(**options)
        config.check()
        return config
