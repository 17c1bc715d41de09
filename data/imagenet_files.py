"""The files of ImageNet on disk: where they are, their classes and labels.

`train/WNID/*` always. `val/` in one of these layouts, tried in this order:

1. `val/WNID/*`, class folders as in training;
2. `val/*` flat, with a text list of file and WNID: `LOC_val_solution.csv` (Kaggle's) or
   `val_annotations.txt` (file, tab, WNID, ...);
3. `val/*` flat, with the devkit: `ILSVRC2012_validation_ground_truth.txt` holds one
   ILSVRC2012_ID a line, in the files' sorted order; `meta.mat` (read by SciPy) or `synsets.txt`
   (one WNID a line, the first is ID 1) says which WNID an ID is. IDs are not in the order of the
   sorted WNIDs, so one of the two is needed.

The lists are looked for in the root, in `val/`, in the devkit's `data/` folder below the root, and
in Kaggle's top folder above it.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

from data import roots
from halut.errors import HalutError

PLACE = "data.imagenet"
FOLDERS = ("imagenet", "ImageNet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm")
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
Listing = tuple[list[str], list[int]]


def find(root: str | None) -> Path:
    """The folder that holds train/ and val/; HalutError saying where it was looked for."""
    places = roots.candidates(root, FOLDERS)
    for place in places:
        for folder in (place, place / "train", place / "val"):
            roots.check_readable(PLACE, folder)
        if (place / "train").is_dir() and (place / "val").is_dir():
            return place
    raise HalutError(
        f"{PLACE}: no folder with train/ and val/ found; looked in {roots.listed(places)}. "
        "Expected: train/WNID/*.JPEG (WNID as n01440764) and val/WNID/*.JPEG, or val/*.JPEG flat "
        f"beside the devkit's {GROUND_TRUTH} and meta.mat. "
        f"ImageNet must be fetched from image-net.org; {roots.ELSEWHERE}"
    )


def class_folders(train: Path) -> list[str]:
    """Names of the class folders, sorted; HalutError if there are none."""
    classes = sorted(entry.name for entry in os.scandir(train) if entry.is_dir())
    if not classes:
        raise HalutError(f"{PLACE}: {train} holds no class folders")
    return classes


def training_files(folder: Path, classes: list[str]) -> Listing:
    """Files (below `folder`) and labels, class by class; HalutError naming an empty class."""
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = _images(folder / name)
        if not images:
            raise HalutError(f"{PLACE}: {folder / name} holds no images")
        files += [f"{name}/{image}" for image in images]
        labels += [label] * len(images)
    return files, labels


def validation_files(folder: Path, classes: list[str]) -> Listing:
    """Files below `folder`/val and labels, by whichever layout is there."""
    val = folder / "val"
    found = sorted(entry.name for entry in os.scandir(val) if entry.is_dir())
    if found and not _images(val):
        if unknown := sorted(set(found) - set(classes)):
            raise HalutError(f"{PLACE}: {val / unknown[0]} is no class of {folder / 'train'}")
        if missing := sorted(set(classes) - set(found)):
            raise HalutError(f"{PLACE}: {val / missing[0]} is missing")
        return training_files(val, classes)
    files = _images(val)
    if not files:
        raise HalutError(f"{PLACE}: {val} holds no images")
    return files, _labels(folder, files, classes)


def _labels(folder: Path, files: list[str], classes: list[str]) -> list[int]:
    """Labels of flat validation files, from the first list that is there."""
    number = {name: label for label, name in enumerate(classes)}
    if (kaggle := _beside(folder, "LOC_val_solution.csv")) is not None:
        with kaggle.open(newline="") as file:
            rows = {row[0]: row[1].split()[0] for row in list(csv.reader(file))[1:]}
        listed, source = [rows.get(Path(name).stem) for name in files], kaggle
    elif (annotations := _beside(folder, "val_annotations.txt")) is not None:
        lines = (line.split("\t") for line in annotations.read_text().splitlines() if line)
        table = {line[0]: line[1] for line in lines}
        listed, source = [table.get(name) for name in files], annotations
    else:
        source = _need(folder, GROUND_TRUTH)
        synsets = _synsets(folder)
        ids = [int(line) for line in source.read_text().split()]
        if len(ids) != len(files):
            raise HalutError(
                f"{PLACE}: {source} has {len(ids)} lines for {len(files)} images in "
                f"{folder / 'val'}"
            )
        listed = [synsets.get(identity) for identity in ids]
    for name, wnid in zip(files, listed, strict=True):
        if wnid not in number:
            raise HalutError(
                f"{PLACE}: {source} gives {folder / 'val' / name} no class of train/ ({wnid})"
            )
    return [number[str(wnid)] for wnid in listed]


def _synsets(folder: Path) -> dict[int, str]:
    """ILSVRC2012_ID -> WNID."""
    if (text := _beside(folder, "synsets.txt")) is not None:
        return {row: line.split()[0] for row, line in enumerate(text.read_text().splitlines(), 1)}
    path = _need(folder, "meta.mat")
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise HalutError(
            f"{PLACE}: reading {path} needs SciPy: pip install scipy, or put synsets.txt (one WNID "
            "a line, in the order of the ILSVRC2012_IDs) beside it"
        ) from error
    try:
        synsets = loadmat(path, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except Exception as error:  # SciPy raises errors of many kinds for a damaged file
        raise HalutError(f"{PLACE}: {path} is corrupt: {error}") from error


def _beside(folder: Path, name: str) -> Path | None:
    devkit = "ILSVRC2012_devkit_t12/data"
    places = [folder, folder / "val", folder / devkit, folder / "devkit/data", folder.parent]
    if folder.name == "CLS-LOC":
        places.append(folder.parents[2])
    for place in places:
        if (place / name).is_file():
            roots.check_readable(PLACE, place / name)
            return place / name
    return None


def _need(folder: Path, name: str) -> Path:
    path = _beside(folder, name)
    if path is None:
        raise HalutError(
            f"{PLACE}: {folder / 'val'} is flat and {name} is not beside it; expected "
            f"{folder / name} or {folder / 'ILSVRC2012_devkit_t12/data' / name} "
            "(or LOC_val_solution.csv, or val_annotations.txt), or class folders val/WNID/"
        )
    return path


def _images(folder: Path) -> list[str]:
    roots.check_readable(PLACE, folder)
    return sorted(e.name for e in os.scandir(folder) if e.name.lower().endswith(SUFFIXES))
