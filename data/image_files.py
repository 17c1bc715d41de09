"""Data sets of image files: their options, timm's transforms, and pictures read by index."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halut.data.config import DataConfig
from halut.data.image_reading import read_image
from halut.data.randomness import isolated
from halut.data.samples import Request, Samples
from halut.errors import HalutError
from halut.option import every, option, redefined, where, while_training

INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "random")
Transforms = dict[bool, Callable[[Any], Tensor]]
"""By whether it is for training: a PIL image -> a normalized tensor [C, S, S]."""


@dataclass
class ImageFilesConfig(DataConfig):
    """`image_size`, `interpolation`, `crop_pct`, mean and std: None takes the pretrained network's
    where a run has one, else those of DEFAULTS.

    `crop_scale` is the least area of a random crop, `flip` and `random_erasing` are probabilities,
    `auto_augment` is timm's text, for example rand-m9-mstd0.5-inc1. `white` is the value of white
    in gray files of more than 8 bits: see data/image_reading.py.
    """

    DEFAULTS = dict[str, Any]()  # not annotated, and so no field

    eval_batch_size: int = redefined(DataConfig, "eval_batch_size", 256)
    image_size: int | None = option(
        None, "side in pixels; null: the pretrained network's, or the data set's"
    )
    interpolation: str | None = option(
        None, "of resizing; null: the pretrained network's, or bicubic", choices=INTERPOLATIONS
    )
    crop_pct: float | None = option(
        None, "share of the side that evaluation crops; null: the pretrained network's, or its own"
    )
    crop_scale: float = option(0.08, "least area of a random crop", needs=while_training)
    flip: float = option(0.5, "share of training images that are mirrored", needs=while_training)
    color_jitter: float = option(
        0.4,
        "strength of changes in color",
        needs=every(
            while_training,
            where(
                lambda own: not own.auto_augment or "3a" in own.auto_augment,
                "data.auto_augment takes its place; it needs data.auto_augment=null",
            ),
        ),
    )
    auto_augment: str | None = option(
        None,
        "timm's text of an augmentation, such as rand-m9-mstd0.5-inc1; null: none",
        needs=while_training,
    )
    random_erasing: float = option(
        0.0, "share of training images a rectangle is erased of", needs=while_training
    )
    white: float | None = option(None, "value of white in gray files of more than 8 bits")

    @classmethod
    def of(cls, options: dict[str, Any]) -> DataConfig:
        set_options = {name: value for name, value in options.items() if value is not None}
        fields = {name: value for name, value in options.items() if name not in cls.DEFAULTS}
        return super().of({**cls.DEFAULTS, **set_options, **fields})

    def check(self) -> None:
        super().check()
        if self.image_size is not None and self.image_size < 1:
            raise HalutError(f"data.image_size must be at least 1, got {self.image_size}")
        for name in ("crop_pct", "crop_scale"):
            if not 0 < getattr(self, name) <= 1:
                raise HalutError(f"data.{name} must be within (0, 1], got {getattr(self, name)}")
        for name in ("flip", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise HalutError(f"data.{name} must be within 0..1, got {getattr(self, name)}")
        for name in ("color_jitter", "white"):
            value = getattr(self, name)
            if value is not None and not (0 <= value < float("inf") and (value or name != "white")):
                raise HalutError(f"data.{name} must be positive, got {value}")
        if self.interpolation not in INTERPOLATIONS:
            raise HalutError(
                f"data.interpolation must be one of {', '.join(INTERPOLATIONS)}, "
                f"got {self.interpolation!r}"
            )


class ImageFiles(Samples):
    """Image files of one folder; `files` are paths below it, labels [n].

    `root` is the folder that the samples' names begin at, `sizes` the files' bytes. `reading` are
    further arguments of `read_image`.
    """

    def __init__(
        self,
        place: str,
        folder: Path,
        files: Sequence[str],
        labels: Sequence[int],
        transforms: Transforms,
        root: Path | None = None,
        sizes: Sequence[int] | None = None,
        **reading: Any,
    ) -> None:
        self.place, self.folder, self.transforms = place, folder, transforms
        self.sizes, self.reading = sizes, reading
        self._prefix = "" if root is None else f"{folder.relative_to(root).as_posix()}/"
        # An array, not a list: workers would copy a list's pages by counting references.
        self._files = np.array([os.fsencode(file) for file in files], dtype=np.bytes_)
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def identity(self, index: int) -> str:
        return str(self.path(index))

    def portable_name(self, index: int) -> str:
        return self._prefix + os.fsdecode(self._files[index])

    def size(self, index: int) -> int:
        return 0 if self.sizes is None else self.sizes[index]

    def path(self, index: int) -> Path:
        """The file of one sample."""
        return self.folder / os.fsdecode(self._files[index])

    def fetch(self, request: Request) -> Tensor:
        if request.keys is None:
            return torch.stack([self._read(int(index), False) for index in request.indices])
        images = []
        for index, key in zip(request.indices, request.keys, strict=True):
            with isolated(int(key)):
                images.append(self._read(int(index), True))
        return torch.stack(images)

    def _read(self, index: int, training: bool) -> Tensor:
        return self.transforms[training](read_image(self.place, self.path(index), **self.reading))


def transforms(config: ImageFilesConfig, mean: Sequence[float], std: Sequence[float]) -> Transforms:
    """timm's transforms for training and for evaluation; `image_size` must be known by now."""
    from timm.data import create_transform

    common: dict[str, Any] = {
        "input_size": config.image_size,
        "mean": tuple(mean),
        "std": tuple(std),
        "interpolation": config.interpolation,
    }
    fixed = "bicubic" if config.interpolation == "random" else config.interpolation
    training = create_transform(
        **common,
        is_training=True,
        scale=(config.crop_scale, 1.0),
        hflip=config.flip,
        color_jitter=config.color_jitter,
        auto_augment=config.auto_augment or None,
        re_prob=config.random_erasing,
        re_mode="pixel",
    )
    evaluation = create_transform(**{**common, "interpolation": fixed}, crop_pct=config.crop_pct)
    return {True: training, False: evaluation}
