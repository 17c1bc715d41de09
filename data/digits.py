"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, 10 classes, no download.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from halut.data.arrays import ArraySamples, ImageConfig
from halut.data.base import DataModule, Pools, datasets, image_statistics
from halut.data.samples import Split
from halut.data.splits import stratified_split
from halut.errors import HalutError
from halut.option import option


def without_files(own: Any, run: Any) -> str:
    """What names files, of which this data set has none."""
    others = ", ".join(name for name in datasets if name != own.name)
    return (
        f"data={own.name} comes with scikit-learn and reads no files; those that do: data={others}"
    )


@dataclass
class DigitsConfig(ImageConfig):
    """scikit-learn's handwritten digits; what is the test split depends on `split_seed` alone."""

    name: str = option("digits", "the data set")
    root: str | None = option(None, "unused: they come with scikit-learn", needs=without_files)
    download: bool = option(False, "unused, as root", needs=without_files)
    test_fraction: float = option(0.2, "share of every class that is the test split")

    def expected_shape(self) -> tuple[tuple[int, int, int], int]:
        return (1, 8, 8), 10

    def check(self) -> None:
        super().check()
        if not 0 < self.test_fraction < 1:
            raise HalutError(f"data.test_fraction must be within (0, 1), got {self.test_fraction}")


@datasets.register("digits")
class Digits(DataModule):
    """Images [1, 8, 8], 16 gray levels. The data set comes without splits of its own."""

    Config = DigitsConfig
    config: DigitsConfig

    def load(self) -> Pools:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.from_numpy(bunch.images).to(torch.uint8)[:, None]
        labels = torch.from_numpy(bunch.target).to(torch.int64)
        statistics = image_statistics(self.config, channels=1)
        self.mean, self.std = (values.tolist() for values in statistics)
        source = ArraySamples("digits", images, labels, statistics, self.config, top=16)
        train, test = stratified_split(labels, self.config.test_fraction, self.config.split_seed)
        return Pools(Split(source, train), Split(source, test), [str(c) for c in range(10)])
