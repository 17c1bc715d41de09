"""Data sets in memory: crop and flip against a slow oracle, file formats, bad files, speed."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from halut import data
from halut.data.arrays import ImageConfig, crop_flip
from halut.data.fashion_mnist import read_split
from halut.data.randomness import fold, integers, uniforms
from halut.data.samples import Request, Samples, Split
from halut.errors import HalutError
from tests.datasets.generate import write_cifar10, write_cifar100, write_fashion_mnist

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
needs_fashion = pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs dataset-fashion-mnist")


def module_of(name, root, **options):
    module = data.build(name, root=str(root), **options)
    module.setup()
    return module


@pytest.mark.parametrize(("border", "mode"), [("zeros", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("flip", [True, False])
def test_crop_flip_equals_one_image_at_a_time(border, mode, flip):
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 7, 9), np.uint8)
    keys = fold(3, np.arange(64))
    config = ImageConfig(crop_padding=2, crop_border=border, flip=flip)
    ys, xs, mirrored = integers(keys, 0, 5), integers(keys, 1, 5), uniforms(keys, 2) < 0.5
    assert len(set(ys)) == len(set(xs)) == 5
    assert 16 < mirrored.sum() < 48
    expected = []
    for image, y, x, mirror in zip(images, ys, xs, mirrored, strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode=mode)[:, y : y + 7, x : x + 9]
        expected.append(padded[:, :, ::-1] if mirror and flip else padded)
    np.testing.assert_array_equal(crop_flip(images, keys, config), np.stack(expected))


@pytest.mark.parametrize("write", [write_cifar10, write_cifar100])
def test_cifar_records_are_read_as_the_format_says(tmp_path, write):
    write(tmp_path)
    name, head = ("cifar10", 1) if write is write_cifar10 else ("cifar100", 2)
    module = module_of(name, tmp_path)
    test = module.splits["test"].source
    [file] = [*tmp_path.glob("*/test*.bin")]
    raw = file.read_bytes()
    record = raw[3 * (head + 3072) : 4 * (head + 3072)]
    assert int(test.labels[3]) == record[head - 1]
    assert test.images[3].flatten().tolist() == list(record[head:])
    red = (record[head] / 255 - module.mean[0]) / module.std[0]
    assert float(module.splits["test"][3][0][0, 0, 0]) == pytest.approx(red, abs=1e-5)
    file.write_bytes(raw[:-1])
    with pytest.raises(HalutError, match=f"{file} is corrupt"):
        module_of(name, tmp_path)
    file.write_bytes(bytes([255, 255]) + raw[2:])
    with pytest.raises(HalutError, match=f"{file} is corrupt: label 255"):
        module_of(name, tmp_path)


def test_class_names_of_any_encoding_and_blank_lines(tmp_path):
    write_cifar10(tmp_path)
    file = tmp_path / "cifar-10-batches-bin/batches.meta.txt"
    names = file.read_text().split()
    file.write_bytes("\r\n\r\n".join([*names, ""]).encode("utf-8-sig"))
    assert module_of("cifar10", tmp_path).class_names == names
    file.write_text("\n\n")
    with pytest.raises(HalutError, match=r"batches\.meta\.txt lists no classes"):
        module_of("cifar10", tmp_path)


class OneNaN(Samples):
    """A data set of one's own with a value that is no number in sample 3."""

    labels = torch.arange(8)

    def identity(self, index):
        return f"array/{index}"

    def fetch(self, request):
        images = torch.ones(len(request.indices), 1, 2, 2)
        images[request.indices == 3, 0, 1, 1] = float("nan")
        return images


def test_a_sample_that_is_not_finite_is_named():
    split = Split(OneNaN())
    assert torch.isfinite(split.__getitems__(Request(torch.tensor([1, 2])))[0]).all()
    error = split.__getitems__(Request(torch.tensor([1, 3, 2])))
    assert isinstance(error, HalutError)
    assert str(error) == "array/3 holds NaN or infinity"
    with pytest.raises(HalutError, match="array/3 holds NaN"):
        split[3]


def test_cifar_missing_training_file_is_named(tmp_path):
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-bin/data_batch_4.bin").unlink()
    with pytest.raises(HalutError, match=r"data_batch_4\.bin is missing"):
        module_of("cifar10", tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_in_torchvisions_folder(tmp_path, packed):
    write_fashion_mnist(tmp_path / "FashionMNIST/raw", packed=packed)
    module = module_of("fashion_mnist", tmp_path)
    assert [len(module.splits[split]) for split in ("train", "val", "test")] == [180, 20, 50]


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read_as_by_torchvision(tmp_path, packed):
    mnist = pytest.importorskip("torchvision.datasets.mnist")
    write_fashion_mnist(tmp_path / "ours", packed=packed)
    write_fashion_mnist(tmp_path / "theirs", packed=False)
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = read_split(tmp_path / "ours", split)
        file = str(tmp_path / "theirs" / name)
        assert images[:, 0].equal(mnist.read_image_file(f"{file}-images-idx3-ubyte"))
        assert labels.equal(mnist.read_label_file(f"{file}-labels-idx1-ubyte"))


@pytest.mark.parametrize("damage", ["truncated", "shape", "magic"])
def test_corrupt_idx_file_is_named(tmp_path, damage):
    write_fashion_mnist(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    raw = gzip.decompress(file.read_bytes())
    file.write_bytes(
        {
            "truncated": gzip.compress(raw)[:-900],
            "shape": gzip.compress(raw[:-784]),
            "magic": gzip.compress(b"\x00\x00\x0d\x03" + raw[4:]),
        }[damage]
    )
    with pytest.raises(HalutError, match=f"{file} is corrupt"):
        module_of("fashion_mnist", tmp_path)


def test_labels_that_do_not_fit_are_named(tmp_path):
    write_fashion_mnist(tmp_path, packed=False)
    write_fashion_mnist(tmp_path / "other", train=199, packed=False)
    labels = "train-labels-idx1-ubyte"
    (tmp_path / "other" / labels).replace(tmp_path / labels)
    with pytest.raises(HalutError, match=f"{labels} does not hold the labels"):
        module_of("fashion_mnist", tmp_path)


@needs_fashion
def test_real_fashion_mnist_is_normalized(monkeypatch):
    monkeypatch.delenv("HALUT_DATA", raising=False)
    module = data.build(
        "fashion_mnist", crop_padding=2, flip=True, batch_size=128, mean=[0.2860], std=[0.3530]
    )
    module.setup()
    assert [len(module.splits[split]) for split in ("train", "val", "test")] == [54000, 6000, 10000]
    assert sum(len(images) for images, _ in module.train_dataloader()) == 54000 // 128 * 128
    images = torch.cat([images for images, _ in module.calibration_batches(2000, seed=0)])
    assert abs(float(images.mean())) < 0.02
    assert float(images.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 3}, "unknown data option 'batch'; choose of: name, root"),
        ({"batch_size": 0}, r"data\.batch_size must be at least 1, got 0"),
        ({"val_fraction": 1.0}, r"data\.val_fraction must be within \(0, 1\), got 1\.0"),
        ({"crop_padding": 8}, r"data\.crop_padding must be smaller than the image"),
        ({"crop_border": "wrap"}, r"data\.crop_border must be zeros or reflect"),
        ({"mixup": 0.5, "batch_size": 9}, r"data\.batch_size must be even with mixup"),
        ({"mean": [0.1, 0.2]}, r"data\.mean must have 1 values, got 2"),
        ({"val_samples": 10**6}, r"data\.val_samples must be in 1\.\."),
        ({"download": True}, r"data\.digits cannot be downloaded"),
    ],
)
def test_bad_options_name_the_choices(options, message):
    def start():
        module = data.build("digits", **options)
        module.prepare_data()
        module.setup()

    with pytest.raises(HalutError, match=message):
        start()


def test_unknown_data_set_names_the_choices():
    with pytest.raises(HalutError, match="choose one of: cifar10, cifar100, digits"):
        data.build("mnist")
