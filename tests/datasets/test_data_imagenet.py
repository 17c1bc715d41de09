"""ImageNet's layouts, its transforms, and what is said about bad files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from generate import WNIDS, write_imagenet

import data
from halut.errors import HalutError

SMALL = {"image_size": 24, "val_fraction": 0.25, "batch_size": 4}


def module_of(root, **options):
    module = data.build("imagenet", root=str(root), **{**SMALL, **options})
    module.setup()
    return module


def answers(module):
    test = module.splits["test"]
    names = [Path(identity).name for identity in test.identities()]
    return dict(zip(names, test.labels.tolist(), strict=True))


@pytest.mark.parametrize("layout", ["devkit", "synsets", "kaggle"])
def test_every_layout_of_val_gives_the_labels_of_class_folders(tmp_path, layout):
    expected = answers(module_of(write_imagenet(tmp_path / "folders")))
    module = module_of(write_imagenet(tmp_path / layout, layout=layout))
    assert answers(module) == expected
    assert module.class_names == list(WNIDS)


def test_folder_below_the_root_is_found(tmp_path, monkeypatch):
    write_imagenet(tmp_path / "ILSVRC/Data/CLS-LOC")
    monkeypatch.setenv("HALUT_DATA", str(tmp_path))
    module = data.build("imagenet", **SMALL)
    module.setup()
    assert [len(module.splits[split]) for split in ("train", "val", "test")] == [27, 9, 12]


def test_evaluation_follows_the_networks_preprocessing(tmp_path):
    from timm.data import create_transform

    given = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0}
    module = module_of(write_imagenet(tmp_path), **given)
    from PIL import Image

    path = module.splits["test"].identities()[0]
    transform = create_transform(24, **given)
    torch.testing.assert_close(module.splits["test"][0][0], transform(Image.open(path)))


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_image_is_named_in_one_line(tmp_path, workers):
    write_imagenet(tmp_path)
    module = module_of(tmp_path, workers=workers)
    path = module.splits["val"].identities()[3]
    Path(path).write_bytes(Path(path).read_bytes()[:200])
    with pytest.raises(HalutError, match=f"data.imagenet: cannot read {path}") as caught:
        list(module.val_dataloader())
    assert "Traceback" not in str(caught.value)


def test_empty_class_is_named(tmp_path):
    write_imagenet(tmp_path)
    for file in (tmp_path / "train" / WNIDS[1]).iterdir():
        file.unlink()
    with pytest.raises(HalutError, match=f"{WNIDS[1]} holds no images"):
        module_of(tmp_path)


def test_flat_val_without_labels_says_what_is_expected(tmp_path):
    write_imagenet(tmp_path, layout="devkit")
    truth = tmp_path / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    lines = truth.read_text()
    truth.write_text(lines + "1\n")
    with pytest.raises(HalutError, match="has 13 lines for 12 images"):
        module_of(tmp_path)
    truth.unlink()
    with pytest.raises(HalutError, match=r"val is flat and ILSVRC2012_validation_ground_truth"):
        module_of(tmp_path)
    truth.write_text(lines)
    (truth.parent / "meta.mat").write_bytes(b"not a mat file")
    with pytest.raises(HalutError, match=r"meta\.mat is corrupt"):
        module_of(tmp_path)
