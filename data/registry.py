"""The registry of data sets; each entry's `Config` is its schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halut.registry import Registry

if TYPE_CHECKING:
    from halut.data.base import DataModule

datasets: Registry[type[DataModule]] = Registry("data set")
