"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 60,000 color images of 32x32, binary version.

Only the binary version is read: the Python version of the archives, the only one that torchvision
reads, holds pickles, which can run code when they are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from halut.data import roots
from halut.data.arrays import ArraySamples, ImageConfig
from halut.data.base import DataModule, Pools, datasets, image_statistics
from halut.data.files import read_lines
from halut.data.samples import Split
from halut.errors import HalutError
from halut.option import option, redefined

BASE_URL = "https://www.cs.toronto.edu/~kriz/"
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Archive:
    """One binary archive: its files, and the bytes before the pixels of each record.

    The last of these bytes is the label.
    """

    file: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int


@dataclass
class CIFAR10Config(ImageConfig):
    """CIFAR-10; shift by 4 pixels and mirroring are the usual augmentation."""

    name: str = option("cifar10", "the data set")
    crop_padding: int = redefined(ImageConfig, "crop_padding", 4)
    flip: bool = redefined(ImageConfig, "flip", True)
    mean: list[float] | None = redefined(ImageConfig, "mean", [0.4914, 0.4822, 0.4465])
    std: list[float] | None = redefined(ImageConfig, "std", [0.2470, 0.2435, 0.2616])

    def expected_shape(self) -> tuple[tuple[int, int, int], int]:
        return (3, 32, 32), 10


@dataclass
class CIFAR100Config(CIFAR10Config):
    """CIFAR-100 with its 100 fine labels; as CIFAR-10 but for the statistics."""

    name: str = option("cifar100", "the data set")
    mean: list[float] | None = redefined(ImageConfig, "mean", [0.5071, 0.4865, 0.4409])
    std: list[float] | None = redefined(ImageConfig, "std", [0.2673, 0.2564, 0.2762])

    def expected_shape(self) -> tuple[tuple[int, int, int], int]:
        return (3, 32, 32), 100


@datasets.register("cifar10")
class CIFAR10(DataModule):
    """Images [3, 32, 32]; validation is `val_fraction` of the training batches."""

    Config = CIFAR10Config
    config: CIFAR10Config
    archive: ClassVar[Archive] = Archive(
        file="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{part}.bin" for part in range(1, 6)),
        test=("test_batch.bin",),
        names="batches.meta.txt",
        label_bytes=1,
    )

    def download(self) -> None:
        from torchvision.datasets.utils import download_and_extract_archive

        if self._folder() is None:
            root = roots.download_root(self._place, self.config.root)
            url = BASE_URL + self.archive.file
            download_and_extract_archive(url, str(root), md5=self.archive.md5)

    def load(self) -> Pools:
        folder = self._folder()
        if folder is None:
            raise HalutError(
                f"{self._place}: {self.archive.folder}/{self.archive.test[0]} not found; looked in "
                f"{roots.list_paths(self._places())}. Only the binary version "
                f"({self.archive.file}) is read, not the pickled Python version. "
                f"Set data.download=true, or {roots.ROOT_HINT}"
            )
        names = self._class_names(folder)
        statistics = image_statistics(self.config, channels=3)
        self.mean, self.std = (values.tolist() for values in statistics)
        splits = []
        for split, files in (("train", self.archive.train), ("test", self.archive.test)):
            parts = [self._read(folder / file, len(names)) for file in files]
            images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
            splits.append(Split(ArraySamples(split, images, labels, statistics, self.config)))
        return Pools(splits[0], splits[1], names)

    @property
    def _place(self) -> str:
        return f"data.{self.config.name}"

    def _places(self) -> list[Path]:
        name, folder = self.config.name, self.archive.folder
        return roots.candidates(self.config.root, (folder, f"{name}/{folder}"))

    def _folder(self) -> Path | None:
        for folder in self._places():
            roots.check_readable(self._place, folder)
            if (folder / self.archive.test[0]).is_file() and (
                folder / self.archive.names
            ).is_file():
                return folder
        return None

    def _class_names(self, folder: Path) -> list[str]:
        path = folder / self.archive.names
        names = list(dict.fromkeys(read_lines(self._place, path)))
        if not names:
            raise HalutError(f"{self._place}: {path} lists no classes")
        return names

    def _read(self, path: Path, classes: int) -> tuple[Tensor, Tensor]:
        """images [n, 3, 32, 32] uint8 and labels [n] int64 of one file."""
        if not path.is_file():
            raise HalutError(f"{self._place}: {path} is missing")
        roots.check_readable(self._place, path)
        record = self.archive.label_bytes + PIXELS
        raw = np.fromfile(path, np.uint8)
        if len(raw) == 0 or len(raw) % record:
            raise HalutError(
                f"{self._place}: {path} is corrupt: {len(raw)} bytes are no multiple of {record}"
            )
        records = torch.from_numpy(raw.reshape(-1, record))
        labels = records[:, self.archive.label_bytes - 1].to(torch.int64)
        if int(labels.max()) >= classes:
            raise HalutError(f"{self._place}: {path} is corrupt: label {int(labels.max())}")
        return records[:, self.archive.label_bytes :].reshape(-1, 3, 32, 32), labels


@datasets.register("cifar100")
class CIFAR100(CIFAR10):
    """Images [3, 32, 32], the 100 fine labels."""

    Config = CIFAR100Config
    archive = Archive(
        file="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        names="fine_label_names.txt",
        label_bytes=2,
    )
