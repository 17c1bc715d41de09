"""Photos as a labeled image folder: the parts, the windows, what the data set reads of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halut import data
from halut.errors import HalutError

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("lite0", ROOT / "benchmarks" / "lite0_photos.py")
lite0 = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(lite0)

CLASSES = ["dark", "unused", "bright"]


def photo(level: int, size: tuple[int, int] = (90, 60)) -> Image.Image:
    rng = np.random.default_rng(level)
    pixels = rng.integers(level, level + 50, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def answer(images):
    return [2 if np.asarray(image).mean() > 128 else 0 for image in images]


def test_no_photo_is_in_two_parts_nor_one_scene_twice():
    names = [name for part in lite0.PHOTOS.values() for name in part]
    assert len(set(names)) == len(names) == 21
    assert sum("motorcycle" in name for name in names) == 1
    assert {part: len(own) for part, own in lite0.PHOTOS.items()} == {
        **{"train": 11, "val": 8, "test": 2},
    }


def test_windows_are_of_the_photo_mirrored_and_the_same_again():
    images = lite0.windows(photo(20), "one")
    assert [image.size for image in images] == [(lite0.SIDE, lite0.SIDE)] * 2 * lite0.WINDOWS
    for image, mirrored in zip(images[::2], images[1::2], strict=True):
        assert np.array_equal(np.asarray(image)[:, ::-1], np.asarray(mirrored))
    assert len({image.tobytes() for image in images}) == len(images)
    again, other = (lite0.windows(photo(20), name) for name in ("one", "other"))
    assert [image.tobytes() for image in again] == [image.tobytes() for image in images]
    assert images[0].tobytes() == other[0].tobytes()
    assert images[2].tobytes() != other[2].tobytes()


def test_the_data_set_reads_the_labels_that_were_answered(tmp_path):
    photos = {
        "train": {"night": photo(0), "snow": photo(200)},
        "val": {"cave": photo(10), "cloud": photo(190)},
        "test": {"coal": photo(5), "milk": photo(205)},
    }
    labels = lite0.write_photos(tmp_path / "photos", photos, CLASSES, answer)
    assert labels["val"] == {"cave": [0] * 24, "cloud": [2] * 24}
    module = data.build(
        "image_folder",
        root=str(tmp_path / "photos"),
        classes=str(tmp_path / "photos/classes.txt"),
        image_size=32,
    )
    module.setup()
    assert module.class_names == CLASSES
    for part, by_name in photos.items():
        split = module.splits[part]
        assert len(split) == 48
        for identity, label in zip(split.identities(), split.labels.tolist(), strict=True):
            name = Path(identity).stem.rpartition("_")[0]
            assert labels[part][name][0] == label
            assert name in by_name


def test_a_missing_package_and_a_missing_photo_are_named():
    with pytest.raises(HalutError, match=r"no_such_package is not installed: pip install"):
        lite0.photo_path("no_such_package/data/photo.png")
    with pytest.raises(HalutError, match=r"this version of PIL has no PIL/photo.png"):
        lite0.photo_path("PIL/photo.png")
