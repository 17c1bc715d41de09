"""Tiny data sets in each real format, for tests: random content, a few kilobytes each."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from scipy.io import savemat

WNIDS = ("n01440764", "n02123159", "n03792782")
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_OTHER = """backward bed bird cat dog eight five follow forward four happy house learn marvin nine
one seven sheila six three tree two visual wow zero"""
OTHER_WORDS = tuple(_OTHER.split())
RATE = 16000


def write_imagenet(root: Path, train: int = 12, val: int = 4, layout: str = "folders") -> Path:
    """Three classes of JPEGs. `layout` of val: folders, devkit, synsets or kaggle."""
    rng = np.random.default_rng(0)
    for wnid in WNIDS:
        for i in range(train):
            _write_jpeg(root / "train" / wnid / f"{wnid}_{i}.JPEG", rng)
    labels = [int(label) for label in rng.permutation(np.repeat(np.arange(3), val))]
    if layout == "folders":
        for i, label in enumerate(labels):
            _write_jpeg(root / "val" / WNIDS[label] / f"ILSVRC2012_val_{i:08d}.JPEG", rng)
        return root
    for i in range(len(labels)):
        _write_jpeg(root / "val" / f"ILSVRC2012_val_{i:08d}.JPEG", rng)
    if layout == "kaggle":
        rows = [f"ILSVRC2012_val_{i:08d},{WNIDS[c]} 1 2 3 4 " for i, c in enumerate(labels)]
        (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
        return root
    devkit = root / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    by_id = (WNIDS[2], WNIDS[0], WNIDS[1])  # IDs are not in the order of the sorted names
    ids = [by_id.index(WNIDS[label]) + 1 for label in labels]
    truth = devkit / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("".join(f"{identity}\n" for identity in ids))
    if layout == "synsets":
        (devkit / "synsets.txt").write_text("\n".join(by_id))
        return root
    synsets = np.zeros(3, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    synsets[:] = [(identity, wnid, 0) for identity, wnid in enumerate(by_id, 1)]
    savemat(devkit / "meta.mat", {"synsets": synsets})
    return root


def write_image_folder(
    root: Path,
    per_class: int = 20,
    classes: tuple[str, ...] = ("disc", "cross", "stripes"),
    part: str = "",
) -> Path:
    """Colored shapes on noise, of 20 to 40 pixels a side: JPEG, PNG and WebP, in class folders."""
    rng = np.random.default_rng(len(part))
    for name in classes:
        (root / part / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            height, width = (int(side) for side in rng.integers(20, 41, 2))
            y, x = np.mgrid[:height, :width]
            inside = {
                "disc": (y - height / 2) ** 2 + (x - width / 2) ** 2 < 49,
                "cross": (abs(y - height / 2) < 3) | (abs(x - width / 2) < 3),
                "stripes": y // 4 % 2 == 0,
            }[name]
            pixels = rng.integers(0, 90, (height, width, 3))
            pixels[inside] = rng.integers(150, 256, 3)
            suffix = (".jpg", ".png", ".webp")[i % 3]
            Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{i}{suffix}")
    return root


def write_cifar10(root: Path, per_file: int = 40) -> Path:
    """The binary version: five training files and a test file."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for i, name in enumerate([f"data_batch_{part}" for part in range(1, 6)] + ["test_batch"]):
        _write_cifar(folder / f"{name}.bin", per_file, 10, coarse=False, seed=i)
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    (folder / "batches.meta.txt").write_text("\n".join(names.split()) + "\n\n")
    return root


def write_cifar100(root: Path, train: int = 400, test: int = 100) -> Path:
    """The binary version: a coarse and a fine label before the pixels."""
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    _write_cifar(folder / "train.bin", train, 100, coarse=True, seed=0)
    _write_cifar(folder / "test.bin", test, 100, coarse=True, seed=1)
    (folder / "fine_label_names.txt").write_text("\n".join(f"class_{c}" for c in range(100)))
    return root


def write_fashion_mnist(root: Path, train: int = 200, test: int = 50, packed: bool = True) -> Path:
    """IDX files, gzipped or not."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        _write_idx(root / f"{name}-images-idx3-ubyte", images, packed)
        labels = np.arange(count, dtype=np.uint8) % 10
        _write_idx(root / f"{name}-labels-idx1-ubyte", labels, packed)
    return root


def write_speech_commands(
    root: Path, per_word: int = 6, rate: int = RATE, seconds: float = 1.0
) -> Path:
    """35 words; of each, one recording validates and one tests."""
    rng = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for word in (*WORDS, *OTHER_WORDS):
        for i in range(per_word):
            path = root / word / f"{rng.integers(2**32):08x}_nohash_{i}.wav"
            _write_wav(path, rng, seconds, rate)
            if i < 2:
                lists[list(lists)[i]].append(f"{word}/{path.name}")
    for name, files in lists.items():
        (root / name).write_text("\n".join(files) + "\n")
    for name in ("white_noise", "running_tap"):
        _write_wav(root / "_background_noise_" / f"{name}.wav", rng, 12, rate)
    return root


def _write_jpeg(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((60, 50)).save(path, "JPEG")


def _write_cifar(path: Path, count: int, classes: int, coarse: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % classes).astype(np.uint8)[:, None]
    pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    parts = [labels // 5, labels, pixels] if coarse else [labels, pixels]
    np.concatenate(parts, axis=1).tofile(path)


def _write_idx(path: Path, array: np.ndarray, packed: bool) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    raw = head + array.tobytes()
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(raw))
    else:
        path.write_bytes(raw)


def _write_wav(path: Path, rng: np.random.Generator, seconds: float, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 2000) * time)
    soundfile.write(path, tone + 0.05 * rng.standard_normal(len(time)), rate, subtype="PCM_16")
