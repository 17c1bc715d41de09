"""ImageNet's layouts, its transforms, and what is said about bad files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from halut import data
from halut.errors import HalutError
from tests.datasets.generate import WNIDS, write_imagenet

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

    arguments = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0}
    module = module_of(write_imagenet(tmp_path), **arguments)
    from PIL import Image

    path = module.splits["test"].identities()[0]
    transform = create_transform(24, **arguments)
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


def test_flat_val_without_labels_names_what_is_expected(tmp_path):
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


@pytest.mark.parametrize("layout", ["folders", "devkit", "synsets", "kaggle"])
def test_files_of_the_wild_change_no_label(tmp_path, layout):
    expected = answers(module_of(write_imagenet(tmp_path / "plain", layout=layout)))
    root = write_imagenet(tmp_path / "wild", layout=layout)
    for folder in (root, root / "train", root / "val", root / "train" / WNIDS[0]):
        (folder / "._ILSVRC2012.JPEG").write_bytes(b"Mac OS X")
        (folder / ".cache").mkdir()
    (root / "train" / WNIDS[0] / "folder.jpg").mkdir()
    for listing in (*root.glob("*.csv"), *root.rglob("*truth.txt"), *root.rglob("synsets.txt")):
        lines = listing.read_text().splitlines()
        lines = [lines[0], "", *lines[1:], "  "]
        if layout == "kaggle":
            lines.append(lines[-2])
        listing.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert answers(module_of(root)) == expected


def test_list_of_tiny_imagenet(tmp_path):
    root = write_imagenet(tmp_path, layout="kaggle")
    rows = [r.split(",") for r in (root / "LOC_val_solution.csv").read_text().splitlines()[1:]]
    expected = answers(module_of(root))
    (root / "LOC_val_solution.csv").unlink()
    lines = [f"{name}.JPEG\t{label.split()[0]}\t0\t0\t9\t9" for name, label in rows]
    listing = root / "val" / "val_annotations.txt"
    listing.write_bytes("\r\n".join([*lines, lines[0], ""]).encode("utf-16"))
    assert answers(module_of(root)) == expected
    listing.write_text("\n".join([*lines, lines[0].replace(rows[0][1].split()[0], "n00000000")]))
    with pytest.raises(HalutError, match=r"val_annotations\.txt lists .* as n\d+ and as n00000000"):
        module_of(root)
    listing.write_text("\n".join([*lines, "alone"]))
    with pytest.raises(HalutError, match=r"val_annotations\.txt has no class in the line 'alone'"):
        module_of(root)


def test_lists_that_cannot_be_are_refused(tmp_path):
    root = write_imagenet(tmp_path, layout="synsets")
    devkit = root / "ILSVRC2012_devkit_t12/data"
    synsets, truth = devkit / "synsets.txt", devkit / "ILSVRC2012_validation_ground_truth.txt"
    synsets.write_text("\n".join([WNIDS[2], WNIDS[2], WNIDS[0]]))
    with pytest.raises(HalutError, match=f"synsets.txt lists {WNIDS[2]} twice"):
        module_of(root)
    synsets.write_text("\n".join(WNIDS))
    truth.write_text("one\n" * 12)
    with pytest.raises(HalutError, match=r"ground_truth\.txt holds 'one' where a number belongs"):
        module_of(root)


def test_a_truncated_test_image_is_named_at_the_start(tmp_path):
    root = write_imagenet(tmp_path)
    path = sorted((root / "val" / WNIDS[1]).iterdir())[-1]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(HalutError, match=f"data.imagenet: cannot read {path}"):
        module_of(root)


def test_own_pictures_are_shown_the_way(tmp_path):
    with pytest.raises(HalutError, match=r"data=image_folder"):
        module_of(tmp_path)
