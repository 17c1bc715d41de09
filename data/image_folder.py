"""Image data set of class folders. Layouts: data/image_folder_files.py.

What is not said is chosen from the training pictures, logged, and recorded in the run's report:

- `image_size` S: the pretrained network's; else the median shorter side, at most 64, to the
  nearest multiple of 4 (8 at least). Evaluation resizes the shorter side to S / crop_pct and cuts
  S x S from the middle; training takes a random part of the picture, mirrored half of the time.
- `channels`: 1 if every picture is gray and no pretrained network asks for three, else 3. A network
  is built with as many input channels; gray pictures are repeated in all three.
- `white`: the least of 8, 10, 12, 14 or 16 bits (or 1, of floats alone) that holds the values of
  gray pictures of more than 8 bits.
- mean and std: the pretrained network's; else measured.

Pictures stand upright, as EXIF says (torchvision and timm leave them lying).
"""

from __future__ import annotations

import contextlib
import logging
import os
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from halut.data import image_folder_files, roots
from halut.data.base import DataModule, Pools, datasets, image_statistics
from halut.data.files import printable
from halut.data.image_files import ImageFiles, ImageFilesConfig, transforms
from halut.data.image_folder_files import GROUP, Listing
from halut.data.image_reading import GRAY, MANY, WIDE, Header, inspect, largest
from halut.data.sampler import rank_and_world
from halut.data.samples import Request, Split
from halut.data.splits import balanced_subset
from halut.errors import HalutError
from halut.option import option, redefined

log = logging.getLogger("halut")

MAX_IMAGE_SIZE = 64
"""Side of pictures where no pretrained network asks for another: small networks train on a CPU."""
LEVELS = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)
_MEASURED = 512  # pictures that mean, std and white are measured on


@dataclass
class ImageFolderConfig(ImageFilesConfig):
    """`test_fraction` of every class is the test split, `val_fraction` of the rest validates, where
    the folder has no such parts; `split_seed` alone decides which. `channels` is 1 or 3. With
    `classes` labels are places in that list, and the network has as many answers, whichever of
    them there are pictures of: for weights that know more classes than the folder has.
    """

    DEFAULTS = {"interpolation": "bicubic", "crop_pct": 1.0}

    name: str = option("image_folder", "the data set")
    batch_size: int = redefined(ImageFilesConfig, "batch_size", 16)
    val_fraction: float = redefined(ImageFilesConfig, "val_fraction", 0.2)
    test_fraction: float = option(0.2, "share of every class that is the test split")
    classes: str | None = option(
        None, "text file of all classes, one a line, in the network's order; null: the folders"
    )
    channels: int | None = option(None, "1 or 3; null: 1 if all pictures are gray")
    crop_scale: float = redefined(ImageFilesConfig, "crop_scale", 0.5)
    color_jitter: float = redefined(ImageFilesConfig, "color_jitter", 0.2)

    def check(self) -> None:
        super().check()
        if not 0 < self.test_fraction < 1:
            raise HalutError(f"data.test_fraction must be within (0, 1), got {self.test_fraction}")
        if self.channels not in (None, 1, 3):
            raise HalutError(f"data.channels must be 1 or 3, got {self.channels}")
        if (self.mean is None) != (self.std is None):
            raise HalutError("give both data.mean and data.std, or neither")


@datasets.register("image_folder")
class ImageFolder(DataModule):
    """Images [1 or 3, S, S]; a class for every folder, sorted by name, or those of a list."""

    Config = ImageFolderConfig
    config: ImageFolderConfig

    def load(self) -> Pools:
        config = self.config
        root = self._root()
        named = config.classes and image_folder_files.class_list(Path(config.classes).expanduser())
        pictures = image_folder_files.listing(
            *(root, config.val_fraction, config.test_fraction, config.split_seed), named or None
        )
        self._files = pictures.files
        evaluation_files = [*pictures.files["val"], *pictures.files["test"]]
        inspect(GROUP, root, evaluation_files)
        self._choose(root, pictures, inspect(GROUP, root, pictures.files["train"], MANY))
        self._warn_of_twins(root, pictures)
        sources = self._sources(root, pictures)
        if config.mean is None:
            values = self._measured(Split(sources["train"]))
        else:
            values = image_statistics(config, self.channels)
        self.mean, self.std = (value.tolist() for value in values)
        for source in sources.values():
            source.transforms = transforms(config, self.mean, self.std)
        parts = {part: Split(source) for part, source in sources.items()}
        classes = [printable(name) for name in pictures.classes]
        return Pools(parts["train"], parts["test"], classes, parts["val"], partial=bool(named))

    def download(self) -> None:
        raise HalutError(f"{GROUP}: there is nothing to download; set data.download=false")

    def split_files(self) -> dict[str, list[str]]:
        return self._files

    @property
    def channels(self) -> int:
        """Of the images, once they are chosen."""
        assert self.config.channels is not None
        return self.config.channels

    def _root(self) -> Path:
        root = self.config.root
        places = roots.candidates(None, ("image_folder",))[1:]  # HALUT_DATA holds other sets too
        places = [Path(root).expanduser(), *places] if root else places
        for place in places[:1]:
            roots.check_readable(GROUP, place)
            if place.is_dir():
                return place
        raise HalutError(
            f"{GROUP}: no folder of class folders found; looked in {roots.list_paths(places[:1])}"
            f"{f' (not in {roots.list_paths(places[1:])})' if places[1:] else ''}. Expected: "
            "CLASS/*.jpg, or train/, val/ and test/ with class folders in each; "
            f"{roots.ROOT_HINT} (HALUT_DATA/image_folder)"
        )

    def _choose(self, root: Path, pictures: Listing, headers: list[Header]) -> None:
        """Fill in the options that were left open, and say so."""
        config, messages = self.config, []
        sides = [min(header.width, header.height) for header in headers]
        if config.image_size is None:
            middle = min(statistics.median_low(sides), MAX_IMAGE_SIZE)
            config.image_size = max(4 * round(middle / 4), 8)
            messages.append(
                f"(their median shorter side, at most {MAX_IMAGE_SIZE}; data.image_size=N)"
            )
        if config.channels is None:
            gray = all(header.mode in GRAY for header in headers)
            config.channels = 1 if gray and len(config.mean or [0]) == 1 else 3
        if config.white is None:
            config.white = self._white(root, pictures, headers)
        if rank_and_world()[0] != 0:
            return
        counts = ", ".join(f"{len(names)} {part}" for part, names in pictures.files.items())
        occurring = len({label for labels in pictures.labels.values() for label in labels})
        of = f" of {len(pictures.classes)}" if config.classes else ""
        log.info("%s: %d%s classes in %s; %s", GROUP, occurring, of, printable(root), counts)
        size = f"{config.image_size} x {config.image_size}"
        shortest, longest = min(sides), max(sides)
        log.info(
            "%s: shorter sides of %d to %d pixels, resized to %s, %s %s",
            *(GROUP, shortest, longest, size),
            *("gray" if config.channels == 1 else "RGB", " ".join(messages)),
        )

    def _warn_of_twins(self, root: Path, pictures: Listing) -> None:
        """Say if held-out pictures are trained on; what cannot be read is told by who reads it."""
        evaluation_files = [*pictures.files["val"], *pictures.files["test"]]
        if rank_and_world()[0] != 0:
            return
        with contextlib.suppress(OSError):
            twins = image_folder_files.repeated(
                root, pictures.files["train"], evaluation_files, MANY
            )
            for name, twin in list(twins.items())[:1]:
                log.warning(
                    "%s: %d pictures of the validation and test parts are among the training "
                    "pictures too, which flatters accuracy: %s is %s",
                    *(GROUP, len(twins), printable(name), printable(twin)),
                )

    def _white(self, root: Path, pictures: Listing, headers: list[Header]) -> float | None:
        """The level that holds the values of pictures of more than 8 bits; None without any."""
        names = pictures.files["train"][:: max(1, -(-len(pictures.files["train"]) // MANY))]
        wide = [name for name, h in zip(names, headers, strict=True) if h.mode in WIDE]
        if not wide:
            return None
        step = max(1, -(-len(wide) // _MEASURED))
        high = max(largest(GROUP, root / name) for name in wide[::step])
        floats = all(h.mode == "F" for h in headers if h.mode in WIDE)
        level = next((x for x in LEVELS if high <= x and (floats or x > 1)), high)
        log.info(
            "%s: pictures of more than 8 bits hold values up to %g: white is %g (data.white=N)",
            *(GROUP, high, level),
        )
        return level

    def _sources(self, root: Path, pictures: Listing) -> dict[str, ImageFiles]:
        """The pictures of each part, in 0..1 as yet."""
        config = self.config
        assert config.image_size is not None
        plain = transforms(config, [0.0] * self.channels, [1.0] * self.channels)
        return {
            part: ImageFiles(
                *(GROUP, root, names, pictures.labels[part], plain),
                sizes=[os.path.getsize(root / name) for name in names],
                channels=self.channels,
                white=config.white,
                upright=True,
                least=2 * config.image_size,
            )
            for part, names in pictures.files.items()
        }

    def _measured(self, train: Split) -> tuple[Tensor, Tensor]:
        """mean and std of each channel over training pictures, balanced by class."""
        sample = balanced_subset(train.labels, _MEASURED, self.config.split_seed).sort().values
        moments = torch.zeros(2, self.channels, dtype=torch.float64)
        for indices in sample.split(64):
            images = train.source.fetch(Request(indices)).double()
            moments += torch.stack([images, images.square()]).mean((3, 4)).sum(1)
        mean, square = moments / len(sample)
        std = (square - mean.square()).clamp_min(1e-6).sqrt()
        return mean.float(), std.float()
