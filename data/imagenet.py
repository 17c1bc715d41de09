"""ImageNet (ILSVRC 2012) and any folder in its layout; timm's transforms.

The official validation folder is the *test* split. Validation, which selects, is split off from
the training images. Layouts of the validation folder are in data/imagenet_files.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import imagenet_files, roots
from data.base import DataModule, Pools, image_statistics
from data.config import DataConfig
from data.randomness import isolated
from data.registry import datasets
from data.samples import Request, Samples, Split
from halut.errors import HalutError
from halut.option import every, option, redefined, where, while_training

DEFAULTS: dict[str, Any] = {
    "image_size": 224,
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "random")


@dataclass
class ImageNetConfig(DataConfig):
    """ImageNet: folders train/ and val/ of class folders.

    `image_size`, `interpolation`, `crop_pct`, mean and std: None takes the pretrained network's
    where a run has one, else those of DEFAULTS. `val_fraction` 0.02 is 20 or so of each class.
    """

    name: str = option("imagenet", "the data set")
    val_fraction: float = redefined(DataConfig, "val_fraction", 0.02)
    eval_batch_size: int = redefined(DataConfig, "eval_batch_size", 256)
    image_size: int | None = option(None, "side in pixels; null: the pretrained network's, or 224")
    interpolation: str | None = option(
        None, "of resizing; null: the pretrained network's, or bicubic", choices=INTERPOLATIONS
    )
    crop_pct: float | None = option(
        None, "share of the side that evaluation crops; null: the pretrained network's, or 0.875"
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
        "rand-m9-mstd0.5-inc1", "timm's text of an augmentation; null: none", needs=while_training
    )
    random_erasing: float = option(
        0.25, "share of training images a rectangle is erased of", needs=while_training
    )
    mixup: float = redefined(DataConfig, "mixup", 0.8)
    cutmix: float = redefined(DataConfig, "cutmix", 1.0)

    @classmethod
    def of(cls, options: dict[str, Any]) -> DataConfig:
        given = {name: value for name, value in options.items() if value is not None}
        kept = {name: value for name, value in options.items() if name not in DEFAULTS}
        return super().of({**DEFAULTS, **given, **kept})

    def check(self) -> None:
        super().check()
        assert self.image_size is not None  # `of` has put the defaults in
        if self.image_size < 1:
            raise HalutError(f"data.image_size must be at least 1, got {self.image_size}")
        for name in ("crop_pct", "crop_scale"):
            if not 0 < getattr(self, name) <= 1:
                raise HalutError(f"data.{name} must be within (0, 1], got {getattr(self, name)}")
        for name in ("flip", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise HalutError(f"data.{name} must be within 0..1, got {getattr(self, name)}")
        if self.interpolation not in INTERPOLATIONS:
            raise HalutError(
                f"data.interpolation must be one of {', '.join(INTERPOLATIONS)}, "
                f"got {self.interpolation!r}"
            )


class ImageFiles(Samples):
    """Image files of one folder; `files` are paths below it, labels [n]."""

    def __init__(
        self,
        folder: Path,
        files: list[str],
        labels: list[int],
        transforms: dict[bool, Callable[[Any], Tensor]],
    ) -> None:
        self.folder, self.transforms = folder, transforms
        # An array, not a list: workers would copy a list's pages by counting references.
        self._files = np.array([file.encode() for file in files], dtype=np.bytes_)
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def identity(self, index: int) -> str:
        return str(self.path(index))

    def path(self, index: int) -> Path:
        """The file of one sample."""
        return self.folder / self._files[index].decode()

    def fetch(self, request: Request) -> Tensor:
        if request.keys is None:
            return torch.stack([self._read(int(index), False) for index in request.indices])
        images = []
        for index, key in zip(request.indices, request.keys, strict=True):
            with isolated(int(key)):
                images.append(self._read(int(index), True))
        return torch.stack(images)

    def _read(self, index: int, training: bool) -> Tensor:
        from PIL import Image

        path = self.path(index)
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = "is not an image" if isinstance(error, Image.UnidentifiedImageError) else error
            raise HalutError(f"{imagenet_files.PLACE}: cannot read {path}: {reason}") from error
        return self.transforms[training](image)


@datasets.register("imagenet")
class ImageNet(DataModule):
    """Images [3, S, S]; as many classes as `train/` has folders, sorted by name."""

    Config = ImageNetConfig
    config: ImageNetConfig

    def load(self) -> Pools:
        folder = imagenet_files.find(self.config.root)
        classes = imagenet_files.class_folders(folder / "train")
        train = imagenet_files.training_files(folder / "train", classes)
        test = imagenet_files.validation_files(folder, classes)
        statistics = image_statistics(self.config, channels=3)
        self.mean, self.std = (values.tolist() for values in statistics)
        transforms = {training: self._transform(training) for training in (True, False)}
        splits = [
            Split(ImageFiles(folder / name, *listing, transforms))
            for name, listing in (("train", train), ("val", test))
        ]
        return Pools(splits[0], splits[1], classes)

    def download(self) -> None:
        raise HalutError(
            f"{imagenet_files.PLACE}: ImageNet must be fetched by hand from image-net.org; "
            f"set data.download=false and {roots.ELSEWHERE}"
        )

    def _transform(self, training: bool) -> Callable[[Any], Tensor]:
        from timm.data import create_transform

        config = self.config
        common: dict[str, Any] = {
            "input_size": config.image_size,
            "is_training": training,
            "mean": tuple(self.mean),
            "std": tuple(self.std),
            "interpolation": config.interpolation,
        }
        if not training:
            if config.interpolation == "random":
                common["interpolation"] = "bicubic"
            return create_transform(**common, crop_pct=config.crop_pct)
        return create_transform(
            **common,
            scale=(config.crop_scale, 1.0),
            hflip=config.flip,
            color_jitter=config.color_jitter,
            auto_augment=config.auto_augment or None,
            re_prob=config.random_erasing,
            re_mode="pixel",
        )
