"""The configuration every data set has; each adds its own fields in a subclass."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from halut.errors import HalutError


@dataclass
class DataConfig:
    """`batch_size` counts the samples of one step over all processes, so that a run keeps its
    steps when the number of devices changes; `eval_batch_size` counts those of one process.

    `split_seed` alone decides which samples are trained on and which validate; `seed` decides the
    order and the augmentation, so runs of several seeds compare on one split.
    """

    name: str = ""
    root: str | None = None
    batch_size: int = 128
    eval_batch_size: int = 512
    workers: int = 0
    seed: int = 0
    split_seed: int = 0
    train_samples: int | None = None
    val_samples: int | None = None
    val_fraction: float = 0.1
    download: bool = False
    mean: list[float] | None = None
    std: list[float] | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0

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

    @classmethod
    def of(cls, options: dict[str, Any]) -> DataConfig:
        """The configuration with `options`; HalutError naming the choices for an unknown one."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise HalutError(f"unknown data option {name!r}; choose of: {', '.join(known)}")
        config = cls(**options)
        config.check()
        return config
