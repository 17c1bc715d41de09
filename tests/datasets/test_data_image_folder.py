"""Pictures of one's own: layouts, the split, what is chosen from the files, what is refused."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from halut import data
from halut.errors import HalutError
from tests.datasets.generate import write_image_folder

CLASSES = ("cross", "disc", "stripes")


def module_of(root, **options):
    module = data.build("image_folder", root=str(root), **options)
    module.setup()
    return module


def names(module):
    """Names below the root of each split's pictures."""
    return {
        split: {part.source.portable_name(int(i)) for i in part.indices}
        for split, part in module.splits.items()
    }


def gray(path: Path, value: int = 100, mode: str = "L", size: tuple[int, int] = (20, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


# -- layouts --------------------------------------------------------------------------------------


def test_flat_folder_is_split_by_class(tmp_path):
    module = module_of(write_image_folder(tmp_path))
    assert module.class_names == list(CLASSES)
    for split, each in (("train", 13), ("val", 3), ("test", 4)):
        assert torch.bincount(module.splits[split].labels).tolist() == [each] * 3
    for part in module.splits.values():
        for identity, label in zip(part.identities(), part.labels.tolist(), strict=True):
            assert Path(identity).parent.name == CLASSES[label]


@pytest.mark.parametrize("train", ["train", "Training"])
@pytest.mark.parametrize("val", ["val", "valid", "VALIDATION", None])
@pytest.mark.parametrize("test", ["test", "testing", None])
def test_parts_are_taken_as_they_are_and_missing_ones_drawn(tmp_path, train, val, test):
    for part, each in ((train, 10), (val, 4), (test, 5)):
        if part is not None:
            write_image_folder(tmp_path, each, part=part)
    drawn = names(module_of(tmp_path))
    top = {split: {name.split("/")[0] for name in paths} for split, paths in drawn.items()}
    assert top == {"train": {train}, "val": {val or train}, "test": {test or train}}
    sizes = {split: len(paths) // 3 for split, paths in drawn.items()}
    val_count = 0 if test else 2
    assert sizes["test"] == (5 if test else val_count)
    assert sizes["val"] == (4 if val else 2)
    assert sizes["train"] == 10 - val_count - (0 if val else 2)


def test_a_class_may_be_called_train_and_hold_folders(tmp_path):
    write_image_folder(tmp_path, 5, ("disc", "cross"))
    (tmp_path / "disc").rename(tmp_path / "train")
    assert module_of(tmp_path).class_names == ["cross", "train"]
    (tmp_path / "train/deep").mkdir()
    for picture in list((tmp_path / "train").glob("*.*")):
        picture.rename(tmp_path / "train/deep" / picture.name)
    assert module_of(tmp_path).class_names == ["cross", "train"]


def test_pictures_without_classes_beside_the_parts_are_not_read(tmp_path, caplog):
    write_image_folder(tmp_path, 10, part="train")
    write_image_folder(tmp_path, 4, part="val")
    gray(tmp_path / "test/0.png")
    with caplog.at_level(logging.WARNING, "halut"):
        module = module_of(tmp_path)
    assert [len(module.splits[split]) for split in ("train", "val", "test")] == [24, 12, 6]
    assert "test of" in caplog.text
    assert "not read" in caplog.text


# -- the split ------------------------------------------------------------------------------------


def test_the_split_is_that_of_the_names_alone(tmp_path):
    first = write_image_folder(tmp_path / "first")
    second = tmp_path / "elsewhere" / "second"
    for picture in sorted(first.rglob("*.*"), reverse=True):  # written in another order
        target = second / picture.relative_to(first)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, target)
    (second / ".DS_Store").write_bytes(b"x")
    for name in CLASSES:
        (second / name / "._0.jpg").write_bytes(b"x")
    one, two = module_of(first), module_of(second, seed=3)
    assert names(one) == names(two)
    assert one.digests() == two.digests()
    assert names(one) == {split: set(files) for split, files in two.split_files().items()}
    other = module_of(first, split_seed=1)
    assert names(other)["test"] != names(one)["test"]
    assert other.digests()["test"] != one.digests()["test"]


def test_more_pictures_hardly_move_the_others(tmp_path):
    before = names(module_of(write_image_folder(tmp_path)))
    for i in range(2):
        gray(tmp_path / f"disc/new_{i}.png")
    after = names(module_of(tmp_path))
    assert len(before["test"] - after["test"]) <= 1
    digest = module_of(tmp_path).digests()
    gray(tmp_path / "disc/new_0.png", size=(30, 30))  # of the same name, another picture
    assert module_of(tmp_path).digests() != digest


def test_small_classes_are_trained_on_and_named(tmp_path, caplog):
    write_image_folder(tmp_path, 9)
    gray(tmp_path / "rare/0.png")
    gray(tmp_path / "two/0.png")
    gray(tmp_path / "two/1.png")
    with caplog.at_level(logging.WARNING, "halut"):
        module = module_of(tmp_path)
    assert torch.bincount(module.splits["train"].labels).tolist() == [6, 6, 1, 6, 2]
    assert torch.bincount(module.splits["test"].labels).tolist() == [2, 2, 0, 2]
    assert "all trained on, none tested: rare (1), two (2)" in caplog.text
    for name in CLASSES:
        shutil.rmtree(tmp_path / name)
    with pytest.raises(HalutError, match=r"no class of .* has enough pictures"):
        module_of(tmp_path)


def test_a_list_of_classes_numbers_the_folders_and_parts_may_lack_some(tmp_path, caplog):
    write_image_folder(tmp_path, 4, ("disc", "cross"), part="train")
    write_image_folder(tmp_path, 2, ("stripes", "disc"), part="val")
    write_image_folder(tmp_path, 1, ("cross", "stripes"), part="test")
    known = ["zebra", "stripes", "ape", "disc", "cross"]
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(known))
    with caplog.at_level(logging.INFO, "halut"):
        module = module_of(tmp_path, classes=str(classes))
    assert "3 of 5 classes" in caplog.text
    assert "has no pictures of" not in caplog.text
    assert module.class_names == known
    assert module.num_classes == 5
    counts = {
        name: torch.bincount(part.labels, minlength=5).tolist()
        for name, part in module.splits.items()
    }
    assert counts == {"train": [0, 0, 0, 4, 4], "val": [0, 2, 0, 2, 0], "test": [0, 1, 0, 0, 1]}
    for part in module.splits.values():
        for identity, label in zip(part.identities(), part.labels.tolist(), strict=True):
            assert Path(identity).parent.name == known[label]


def test_a_list_of_classes_splits_a_flat_folder_as_without(tmp_path):
    write_image_folder(tmp_path)
    plain = names(module_of(tmp_path))
    (tmp_path / "classes.txt").write_text("stripes\nowl\ncross\ndisc\n")
    module = module_of(tmp_path, classes=str(tmp_path / "classes.txt"))
    assert names(module) == plain
    assert torch.bincount(module.splits["train"].labels).tolist() == [13, 0, 13, 13]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot read .*classes\.txt: No such file"),
        ("\n", r"classes\.txt names no class; wanted is one a line"),
        ("disc\ncross\ndisc\nstripes", r"classes\.txt names disc twice"),
        ("disc\ncross", r"stripes is no class of the list data\.classes"),
    ],
)
def test_a_list_that_does_not_name_the_folders_is_refused(tmp_path, text, message):
    write_image_folder(tmp_path, 3)
    if text is not None:
        (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(HalutError, match=message):
        module_of(tmp_path, classes=str(tmp_path / "classes.txt"))


def test_three_pictures_are_one_for_each_part(tmp_path):
    module = module_of(write_image_folder(tmp_path, 3), test_fraction=0.9, val_fraction=0.9)
    assert [len(module.splits[split]) for split in ("train", "val", "test")] == [3, 3, 3]


# -- what is chosen from the files ----------------------------------------------------------------


MIXED = [(30, 50), (40, 41), (41, 60), (70, 39), (40, 44), (90, 200)]


@pytest.mark.parametrize(("sizes", "size"), [([(28, 28)], 28), (MIXED, 40), ([(640, 480)], 64)])
def test_the_size_is_the_median_shorter_side(tmp_path, caplog, sizes, size):
    for name in ("a", "b"):
        for i in range(6):
            gray(tmp_path / name / f"{i}.png", size=sizes[i % len(sizes)])
    with caplog.at_level(logging.INFO, "halut"):
        module = module_of(tmp_path, val_fraction=0.01, test_fraction=0.01)
    assert module.input_shape == (1, size, size)
    assert f"resized to {size} x {size}" in caplog.text
    assert module_of(tmp_path, image_size=17).input_shape == (1, 17, 17)


def test_channels_are_one_if_all_are_gray_and_three_if_weights_ask_for_them(tmp_path):
    for name in ("a", "b"):
        for i in range(4):
            gray(tmp_path / name / f"{i}.png", 40 * i)
    assert module_of(tmp_path).input_shape[0] == 1
    three = module_of(tmp_path, mean=[0.5] * 3, std=[0.5] * 3)
    image = three.splits["train"][0][0]
    assert image.shape[0] == 3
    assert torch.equal(image[0], image[2])
    assert module_of(tmp_path, channels=3).input_shape[0] == 3
    gray(tmp_path / "a/4.png", 0, "RGB")
    assert module_of(tmp_path, test_fraction=0.01, val_fraction=0.01).input_shape[0] == 3
    assert module_of(tmp_path, channels=1).input_shape[0] == 1


def test_images_are_normalized_by_measured_statistics(tmp_path):
    module = module_of(write_image_folder(tmp_path))
    images = torch.cat([images for images, _ in module.calibration_batches(10**6, seed=0)])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0
    )


def test_16_bit_files_of_12_bits_keep_their_values(tmp_path, caplog):
    values = np.arange(400, dtype=np.uint16).reshape(20, 20) * 10
    for name in ("a", "b"):
        for i in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / name / f"{i}.png")
    with caplog.at_level(logging.INFO, "halut"):
        module = module_of(tmp_path, mean=[0.0], std=[1.0])
    assert module.config.white == 4095
    assert "values up to 3990: white is 4095" in caplog.text
    image = module.splits["test"][0][0][0]
    torch.testing.assert_close(image, torch.from_numpy(values / 4095).float(), atol=2e-3, rtol=0)
    assert (
        float(module_of(tmp_path, mean=[0.0], std=[1.0], white=65535).splits["test"][0][0].max())
        < 0.07
    )


def test_pictures_stand_upright(tmp_path):
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png", exif=exif)
    image = module_of(tmp_path, mean=[0.0] * 3, std=[1.0] * 3).splits["test"][0][0]
    assert float(image[:, :8].max()) < 0.1
    assert float(image[:, 12:].min()) > 0.9


# -- files of the wild ----------------------------------------------------------------------------


def test_names_that_are_no_utf_8_are_read_and_printed(tmp_path):
    folder = os.fsencode(tmp_path)
    write_image_folder(tmp_path, 4)
    os.rename(tmp_path / "disc", os.fsdecode(folder + b"/d\xefsc"))
    for i, file in enumerate(sorted(os.listdir(folder + b"/d\xefsc"))):
        os.rename(folder + b"/d\xefsc/" + file, folder + b"/d\xefsc/\xe9%d.JPG" % i)
    module = module_of(tmp_path)
    assert module.class_names == ["cross", "d\\xefsc", "stripes"]
    assert sum(len(list(module._eval_loader(split))) for split in ("val", "test")) == 2
    module.digests()
    bad = folder + b"/d\xefsc/\xe90.JPG"
    with open(bad, "wb") as file:
        file.write(b"no picture")
    with pytest.raises(HalutError) as caught:
        module_of(tmp_path)
    assert str(caught.value).encode().endswith(rb"d\xefsc/\xe90.JPG: is not an image")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_truncated_picture_of_any_split_is_named_at_the_start(tmp_path, split):
    module = module_of(write_image_folder(tmp_path))
    path = Path(module.splits[split].identities()[0])
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(HalutError, match=rf"data\.image_folder: cannot read {path}"):
        module_of(tmp_path)


def test_damage_inside_a_test_picture_is_named_when_the_test_split_is_read(tmp_path):
    module = module_of(write_image_folder(tmp_path, 20, ("disc", "cross")))
    path = next(Path(i) for i in module.splits["test"].identities() if i.endswith(".png"))
    raw = bytearray(path.read_bytes())
    raw[60:90] = bytes(30)
    path.write_bytes(raw)
    with pytest.raises(HalutError, match=rf"cannot read {path}"):
        module_of(tmp_path).read_test()


def test_what_cannot_be_a_data_set_is_refused_in_one_line(tmp_path, caplog):
    with pytest.raises(HalutError, match="holds 0 class folders and 0 pictures"):
        module_of(tmp_path)
    gray(tmp_path / "0.png")
    with pytest.raises(HalutError, match="holds 0 class folders and 1 pictures"):
        module_of(tmp_path)
    write_image_folder(tmp_path, 4, ("disc", "cross"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(HalutError, match=r"empty holds no pictures \(\.jpg, .*fill it or take it"):
        module_of(tmp_path)
    (tmp_path / "empty").rmdir()
    (tmp_path / "disc/phone.HEIC").write_bytes(b"x")
    with caplog.at_level(logging.WARNING, "halut"):
        module_of(tmp_path)
    assert "1 pictures of formats that are not read" in caplog.text
    for part in ("train", "val", "valid"):
        write_image_folder(tmp_path / "parts", 4, part=part)
    with pytest.raises(HalutError, match="has val and valid: which one is the val part"):
        module_of(tmp_path / "parts")
    (tmp_path / "parts/valid").rename(tmp_path / "parts/test")
    (tmp_path / "parts/test/disc").rename(tmp_path / "parts/test/ball")
    with pytest.raises(HalutError, match="test/ball is no class of the training part"):
        module_of(tmp_path / "parts")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, r"data\.channels must be 1 or 3, got 2"),
        ({"test_fraction": 0.0}, r"data\.test_fraction must be within \(0, 1\), got 0\.0"),
        ({"image_size": 0}, r"data\.image_size must be at least 1, got 0"),
        ({"white": 0.0}, r"data\.white must be positive, got 0\.0"),
        ({"mean": [0.5]}, r"give both data\.mean and data\.std"),
        ({"interpolation": "cubic"}, r"data\.interpolation must be one of bilinear"),
        ({"mean": [float("nan")], "std": [1.0]}, r"data\.mean must be finite"),
    ],
)
def test_bad_options_name_the_choices(options, message):
    with pytest.raises(HalutError, match=message):
        data.build("image_folder", **options)


@pytest.mark.parametrize("part", ["val", "test"])
def test_pictures_that_are_trained_on_and_held_out_are_warned_of(tmp_path, caplog, part):
    for each, count in (("train", 10), ("val", 4), ("test", 4)):
        write_image_folder(tmp_path, count, part=each)
    with caplog.at_level(logging.WARNING, "halut"):
        module_of(tmp_path)
        assert "among the training" not in caplog.text
        module = module_of(tmp_path)
        twins = {split: sorted(module._files[split])[0] for split in ("train", part)}
        shutil.copy(tmp_path / twins["train"], tmp_path / twins[part])
        caplog.clear()
        module_of(tmp_path)
    [line] = [each for each in caplog.messages if "among the training" in each]
    assert "1 pictures of the validation and test parts" in line
    assert line.endswith(f"{twins[part]} is {twins['train']}")


def test_few_samples_are_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "halut"):
        module_of(write_image_folder(tmp_path))
    [line] = [record.getMessage() for record in caplog.records]
    assert "9 val samples: +-27 points; 12 test samples: +-25 points" in line
