"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 70,000 images of 28x28, 10 classes, IDX files."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halut.data import roots
from halut.data.arrays import ArraySamples, ImageConfig
from halut.data.base import DataModule, Pools, datasets, image_statistics
from halut.data.samples import Split
from halut.errors import HalutError
from halut.option import option

GROUP = "data.fashion_mnist"
FOLDERS = ("fashion_mnist", "FashionMNIST/raw")
DEBIAN = "/usr/share/datasets/fashion-mnist"
CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass
class FashionMNISTConfig(ImageConfig):
    """Fashion-MNIST; validation is `val_fraction` of the training files."""

    name: str = option("fashion_mnist", "the data set")

    def expected_shape(self) -> tuple[tuple[int, int, int], int]:
        return (1, 28, 28), 10


@datasets.register("fashion_mnist")
class FashionMNIST(DataModule):
    """Images [1, 28, 28]. The files are read from Debian's package if no other are found."""

    Config = FashionMNISTConfig
    config: FashionMNISTConfig

    def download(self) -> None:
        if self._folder() is None:
            from torchvision.datasets import FashionMNIST as Files

            Files(str(roots.download_root(GROUP, self.config.root)), download=True)

    def load(self) -> Pools:
        folder = self._folder()
        if folder is None:
            raise HalutError(
                f"{GROUP}: {FILES['train'][0]}(.gz) not found; looked in "
                f"{roots.list_paths(self._places())}. Install the Debian package "
                f"dataset-fashion-mnist, or set data.download=true, or {roots.ROOT_HINT}"
            )
        statistics = image_statistics(self.config, channels=1)
        self.mean, self.std = (values.tolist() for values in statistics)
        train, test = (
            Split(ArraySamples(split, *read_split(folder, split), statistics, self.config))
            for split in FILES
        )
        return Pools(train, test, CLASSES)

    def _places(self) -> list[Path]:
        return roots.candidates(self.config.root, FOLDERS, [DEBIAN])

    def _folder(self) -> Path | None:
        for folder in self._places():
            roots.check_readable(GROUP, folder)
            if _path(folder, FILES["train"][0]) is not None:
                return folder
        return None


def read_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """images [n, 1, H, W] uint8 and labels [n] int64 of "train" or "test".

    Raises HalutError naming the file that is missing, corrupt or does not fit the other.
    """
    paths = []
    for name in FILES[split]:
        path = _path(folder, name)
        if path is None:
            raise HalutError(f"{GROUP}: {folder / name}(.gz) is missing")
        paths.append(path)
    images, labels = read_idx(paths[0], dims=3), read_idx(paths[1], dims=1)
    if len(images) != len(labels) or len(labels) == 0 or int(labels.max()) >= len(CLASSES):
        raise HalutError(f"{GROUP}: {paths[1]} does not hold the labels of {paths[0]}")
    return images[:, None], labels.to(torch.int64)


def read_idx(path: Path, dims: int) -> Tensor:
    """An IDX file of unsigned bytes, gzipped or not, with `dims` dimensions.

    Own, as torchvision's reader opens no gzipped files, which Debian's package and the download
    hold, and meets damaged ones with assertions that name no file. The bytes are the same.
    """
    roots.check_readable(GROUP, path)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise HalutError(f"{GROUP}: {path} is corrupt: {error}") from error
    head = 4 + 4 * dims
    shape = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, head, 4)]
    if raw[:4] != bytes([0, 0, 8, dims]) or len(raw) != head + int(np.prod(shape)):
        raise HalutError(f"{GROUP}: {path} is corrupt: not an IDX file of bytes {shape}")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=head).reshape(shape).copy())


def _path(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None
