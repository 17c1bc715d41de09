"""Data sets, one LightningDataModule per file: `datasets` names them, `build` makes one.

To add a data set: one file here with a Config and a class decorated by `@datasets.register`, its
import below, and conf/data/NAME.yaml.
"""

from __future__ import annotations

from typing import Any

from data import (  # noqa: F401  # each registers its data set
    cifar,
    digits,
    fashion_mnist,
    imagenet,
    speech_commands,
)
from data.base import DataModule
from data.config import DataConfig
from data.registry import datasets

__all__ = ["DataConfig", "DataModule", "build", "datasets", "schemas"]


def build(name: str, **options: Any) -> DataModule:
    """The data set `name` with fields of its Config; HalutError naming the choices."""
    return datasets[name](**options)


def schemas() -> dict[str, type[DataConfig]]:
    """The configuration dataclass of every data set, by name."""
    return {name: datasets[name].Config for name in datasets}
