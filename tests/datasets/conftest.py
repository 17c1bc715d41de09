"""Every registered data set on generated files. A new one is tested once it is listed here."""

from __future__ import annotations

import pytest

from halut import data
from tests.datasets.generate import (
    write_cifar10,
    write_cifar100,
    write_fashion_mnist,
    write_image_folder,
    write_imagenet,
    write_speech_commands,
)

WRITERS = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "fashion_mnist": write_fashion_mnist,
    "image_folder": write_image_folder,
    "imagenet": write_imagenet,
    "speech_commands": write_speech_commands,
}
OPTIONS = {
    "digits": {"crop_padding": 1},
    "fashion_mnist": {"crop_padding": 2, "flip": True},
    "imagenet": {"image_size": 32, "val_fraction": 0.25, "mixup": 0.0, "cutmix": 0.0},
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A folder for every data set that reads one, by name; written when first asked for."""
    written = {}

    def folder(name):
        if name in WRITERS and name not in written:
            written[name] = WRITERS[name](tmp_path_factory.mktemp(name))
        return written.get(name)

    return folder


@pytest.fixture
def build(folders, monkeypatch):
    """Make and set up a data set by name on its generated folder."""
    monkeypatch.delenv("HALUT_DATA", raising=False)

    def make(name, **options):
        root = folders(name)
        module = data.build(
            name,
            **{
                "root": None if root is None else str(root),
                "batch_size": 8,
                "eval_batch_size": 7,
                **OPTIONS.get(name, {}),
                **options,
            },
        )
        module.setup()
        return module

    return make
