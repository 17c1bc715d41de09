"""Files of ImageNet: folders, classes and labels.

`train/WNID/*` always. `val/` in one of these layouts, tried in this order:

1. `val/WNID/*`, class folders as in training;
2. `val/*` flat, with a text list of file and WNID: `LOC_val_solution.csv` (Kaggle's) or
   `val_annotations.txt` (file, tab, WNID, ...);
3. `val/*` flat, with the devkit: `ILSVRC2012_validation_ground_truth.txt` holds one
   ILSVRC2012_ID a line, in the files' sorted order; `meta.mat` (read by SciPy) or `synsets.txt`
   (one WNID a line, the first is ID 1) says which WNID an ID is. IDs are not in the order of the
   sorted WNIDs, so one of the two is needed.

Not by torchvision's ImageFolder or timm's create_dataset: both number the classes otherwise (hidden
folders among them; timm puts n2 before n10) and take in hidden files and those of deeper folders;
torchvision's ImageNet needs the devkit's archive and val/ in class folders. None reads flat ones.

The lists are looked for in the root, in `val/`, in the devkit's `data/` folder below the root, and
in Kaggle's top folder above it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from halut.data import roots
from halut.data.files import files as files_in
from halut.data.files import finder, folders, printable, read_lines
from halut.data.image_reading import SUFFIXES
from halut.errors import HalutError

GROUP = "data.imagenet"
FOLDERS = ("imagenet", "ImageNet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
Listing = tuple[list[str], list[int]]


def find(root: str | None) -> Path:
    """The folder that holds train/ and val/; HalutError saying where it was looked for."""
    places = roots.candidates(root, FOLDERS)
    for place in places:
        for folder in (place, place / "train", place / "val"):
            roots.check_readable(GROUP, folder)
        if (place / "train").is_dir() and (place / "val").is_dir():
            return place
    raise HalutError(
        f"{GROUP}: no folder with train/ and val/ found; looked in {roots.list_paths(places)}. "
        "Expected: train/WNID/*.JPEG (WNID as n01440764) and val/WNID/*.JPEG, or val/*.JPEG flat "
        f"beside the devkit's {GROUND_TRUTH} and meta.mat. "
        f"ImageNet must be fetched from image-net.org; {roots.ROOT_HINT}. "
        "A folder of class folders of your own is data=image_folder"
    )


def class_folders(train: Path) -> list[str]:
    """Names of the class folders, sorted; HalutError if there are none."""
    classes = folders(train)
    if not classes:
        raise HalutError(f"{GROUP}: {printable(train)} holds no class folders")
    return classes


def training_files(folder: Path, classes: list[str]) -> Listing:
    """Files (below `folder`) and labels, class by class; HalutError naming an empty class."""
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = _images(folder / name)
        if not images:
            raise HalutError(f"{GROUP}: {printable(folder / name)} holds no images")
        files += [f"{name}/{image}" for image in images]
        labels += [label] * len(images)
    return files, labels


def validation_files(folder: Path, classes: list[str]) -> Listing:
    """Files below `folder`/val and labels, by whichever layout is there."""
    val = folder / "val"
    names = folders(val)
    if names and not _images(val):
        if unknown := sorted(set(names) - set(classes)):
            raise HalutError(
                f"{GROUP}: {printable(val / unknown[0])} is no class of "
                f"{printable(folder / 'train')}"
            )
        if missing := sorted(set(classes) - set(names)):
            raise HalutError(f"{GROUP}: {printable(val / missing[0])} is missing")
        return training_files(val, classes)
    files = _images(val)
    if not files:
        raise HalutError(f"{GROUP}: {val} holds no images")
    return files, _labels(folder, files, classes)


def _labels(folder: Path, files: list[str], classes: list[str]) -> list[int]:
    """Labels of flat validation files, from the first list that is there."""
    number = {name: label for label, name in enumerate(classes)}
    if (source := _beside(folder, "LOC_val_solution.csv")) is not None:
        rows = _rows(source, list(csv.reader(read_lines(GROUP, source)))[1:])
        stems = {Path(name).stem: name for name in files}
        synset_list = _listed(source, ((stems.get(row[0]), row[1]) for row in rows), files)
    elif (source := _beside(folder, "val_annotations.txt")) is not None:
        find = finder(files)
        rows = _rows(source, [line.split("\t") for line in read_lines(GROUP, source)])
        synset_list = _listed(source, ((find(row[0]), row[1]) for row in rows), files)
    else:
        source = _need(folder, GROUND_TRUTH)
        synsets = _synsets(folder)
        ids = _ids(source)
        if len(ids) != len(files):
            raise HalutError(
                f"{GROUP}: {printable(source)} has {len(ids)} lines for {len(files)} images in "
                f"{printable(folder / 'val')}"
            )
        synset_list = [synsets.get(identity) for identity in ids]
    for name, wnid in zip(files, synset_list, strict=True):
        if wnid not in number:
            raise HalutError(
                f"{GROUP}: {printable(source)} gives {printable(folder / 'val' / name)} no class "
                f"of train/ ({wnid})"
            )
    return [number[str(wnid)] for wnid in synset_list]


def _rows(source: Path, rows: list[list[str]]) -> list[list[str]]:
    """Rows of a list, each at least a file and a class."""
    for row in rows:
        if len(row) < 2 or not row[1].split():
            raise HalutError(
                f"{GROUP}: {printable(source)} has no class in the line {','.join(row)!r}"
            )
    return rows


def _listed(
    source: Path, rows: Iterable[tuple[str | None, str]], files: list[str]
) -> list[str | None]:
    """The WNID of every file; lines may come twice, but not with two classes."""
    table: dict[str, str] = {}
    for name, text in rows:
        wnid = text.split()[0]
        if name is not None and table.setdefault(name, wnid) != wnid:
            raise HalutError(
                f"{GROUP}: {printable(source)} lists {printable(name)} as {table[name]} and as "
                f"{wnid}"
            )
    return [table.get(name) for name in files]


def _ids(source: Path) -> list[int]:
    """The ILSVRC2012_IDs of a ground truth, one a line."""
    lines = read_lines(GROUP, source)
    for line in lines:
        if not line.isdecimal():
            raise HalutError(f"{GROUP}: {printable(source)} holds {line!r} where a number belongs")
    return [int(line) for line in lines]


def _synsets(folder: Path) -> dict[int, str]:
    """ILSVRC2012_ID -> WNID."""
    if (text := _beside(folder, "synsets.txt")) is not None:
        names = [line.split()[0] for line in read_lines(GROUP, text)]
        if twice := [name for row, name in enumerate(names) if name in names[:row]]:
            raise HalutError(
                f"{GROUP}: {printable(text)} lists {twice[0]} twice: what is the ID of the next?"
            )
        return dict(enumerate(names, 1))
    path = _need(folder, "meta.mat")
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise HalutError(
            f"{GROUP}: reading {printable(path)} needs SciPy: pip install scipy, or put "
            "synsets.txt (one WNID a line, in the order of the ILSVRC2012_IDs) beside it"
        ) from error
    try:
        synsets = loadmat(path, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except Exception as error:  # SciPy raises errors of many kinds for a damaged file
        raise HalutError(f"{GROUP}: {printable(path)} is corrupt: {error}") from error


def _beside(folder: Path, name: str) -> Path | None:
    devkit = "ILSVRC2012_devkit_t12/data"
    places = [folder, folder / "val", folder / devkit, folder / "devkit/data", folder.parent]
    if folder.name == "CLS-LOC":
        places.append(folder.parents[2])
    for place in places:
        if (place / name).is_file():
            roots.check_readable(GROUP, place / name)
            return place / name
    return None


def _need(folder: Path, name: str) -> Path:
    path = _beside(folder, name)
    if path is None:
        raise HalutError(
            f"{GROUP}: {printable(folder / 'val')} is flat and {name} is not beside it; expected "
            f"{folder / name} or {folder / 'ILSVRC2012_devkit_t12/data' / name} "
            "(or LOC_val_solution.csv, or val_annotations.txt), or class folders val/WNID/"
        )
    return path


def _images(folder: Path) -> list[str]:
    roots.check_readable(GROUP, folder)
    return files_in(GROUP, folder, SUFFIXES)
