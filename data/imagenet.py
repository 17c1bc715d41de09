"""ImageNet (ILSVRC 2012) and any folder in its layout; timm's transforms.

The official validation folder is the *test* split. Validation, which selects, is split off from
the training images. Layouts of the validation folder are in data/imagenet_files.py. The orientation
in EXIF is ignored, as timm ignores it where it evaluates its weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from halut.data import imagenet_files, roots
from halut.data.base import DataModule, Pools, datasets, image_statistics
from halut.data.files import printable
from halut.data.image_files import ImageFiles, ImageFilesConfig, transforms
from halut.data.image_reading import MANY, inspect
from halut.data.samples import Split
from halut.errors import HalutError
from halut.option import option, redefined


@dataclass
class ImageNetConfig(ImageFilesConfig):
    """ImageNet, or folders train/ and val/ of class folders.

    `val_fraction` 0.02 of the training images is 20 or so of each class.
    """

    DEFAULTS = {
        "image_size": 224,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }

    name: str = option("imagenet", "the data set")
    val_fraction: float = redefined(ImageFilesConfig, "val_fraction", 0.02)
    auto_augment: str | None = redefined(ImageFilesConfig, "auto_augment", "rand-m9-mstd0.5-inc1")
    random_erasing: float = redefined(ImageFilesConfig, "random_erasing", 0.25)
    mixup: float = redefined(ImageFilesConfig, "mixup", 0.8)
    cutmix: float = redefined(ImageFilesConfig, "cutmix", 1.0)

    def expected_shape(self) -> tuple[tuple[int, int, int], int]:
        """With ImageNet's 1,000 classes, however many folders there are."""
        size = self.image_size or self.DEFAULTS["image_size"]
        return (3, size, size), 1000


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
        both = transforms(self.config, self.mean, self.std)
        place, white = imagenet_files.GROUP, self.config.white
        for name, (files, _) in (("val", test), ("train", train)):
            inspect(place, folder / name, files, MANY if name == "train" else None)
        sources = [
            ImageFiles(place, folder / name, *listing, both, root=folder, white=white)
            for name, listing in (("train", train), ("val", test))
        ]
        return Pools(Split(sources[0]), Split(sources[1]), [printable(name) for name in classes])

    def download(self) -> None:
        raise HalutError(
            f"{imagenet_files.GROUP}: ImageNet must be fetched by hand from image-net.org; "
            f"set data.download=false and {roots.ROOT_HINT}"
        )
