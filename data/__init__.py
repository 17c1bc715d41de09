"""Data sets, one LightningDataModule per file: `datasets` names them, `build` makes one.

A data set is a file here with a Config and a class decorated by `@datasets.register`; every file
is imported, so that adding one is writing it (and conf/data/NAME.yaml).
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from halut.data.arrays import ArraySamples, ImageConfig
from halut.data.base import DataModule, Pools, datasets, image_statistics
from halut.data.config import DataConfig
from halut.data.samples import Samples, Split

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "ArraySamples",
    "DataConfig",
    "DataModule",
    "ImageConfig",
    "Pools",
    "Samples",
    "Split",
    "build",
    "datasets",
    "image_statistics",
    "schemas",
]


def build(name: str, **options: Any) -> DataModule:
    """The data set `name` with fields of its Config; HalutError naming the choices."""
    return datasets[name](**options)


def schemas() -> dict[str, type[DataConfig]]:
    """The configuration dataclass of every data set, by name."""
    return {name: datasets[name].Config for name in datasets}
