"""Files of a class-folder data set: layout, classes, and train/val/test parts.

Either class folders, ROOT/CLASS/**, or parts that hold them, ROOT/PART/CLASS/**, named as in PARTS.
It is parts if a folder named as a training part holds folders and no pictures of its own, and
stands alone or beside another part; so a class may be called "train". What is missing is drawn from
the training pictures, class by class, test first. A picture's place in the draw is the SHA-256 of
the seed and its name: the same on every machine, and hardly another when pictures are added.

The classes are the training part's folders, or those of a list, of which the folders are some.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from halut.data.files import canonical, files, folders, printable, read_lines, walk
from halut.data.image_reading import SUFFIXES
from halut.errors import HalutError

log = logging.getLogger("halut")

GROUP = "data.image_folder"
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
FOREIGN = (
    ".heic",
    ".heif",
    ".avif",
    ".jxl",
    ".jp2",
    ".dng",
    ".cr2",
    ".nef",
    ".arw",
    ".psd",
    ".svg",
)
"""Pictures that are not read: they must not go missing without a word."""


@dataclass
class Listing:
    """Files below the root and their labels, for each of train, val and test."""

    classes: list[str]
    files: dict[str, list[str]] = field(default_factory=lambda: {part: [] for part in PARTS})
    labels: dict[str, list[int]] = field(default_factory=lambda: {part: [] for part in PARTS})

    def add(self, part: str, names: list[str], label: int) -> None:
        """File the pictures of one class under `part`."""
        self.files[part] += names
        self.labels[part] += [label] * len(names)


def class_list(path: Path) -> list[str]:
    """The classes of a text file, one a line; HalutError if there are none, or one twice."""
    names = read_lines(GROUP, path)
    if not names:
        raise HalutError(f"{GROUP}: {printable(path)} names no class; wanted is one a line")
    twice = [name for name, count in Counter(map(canonical, names)).items() if count > 1]
    if twice:
        raise HalutError(f"{GROUP}: {printable(path)} names {printable(twice[0])} twice")
    return names


def listing(
    root: Path,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    classes: Sequence[str] | None = None,
) -> Listing:
    """Every picture below `root` in its part; HalutError if no such split can be made.

    With `classes` labels are places in that list, and any part may lack some of them; HalutError
    for a folder that is none of them.
    """
    parts = _parts(root)
    train = parts.get("train", "")
    by_class = _pictures(root, train)
    own = [name.rpartition("/")[2] for name in by_class]
    pictures = Listing(own if classes is None else list(classes))
    number = {canonical(name): label for label, name in enumerate(pictures.classes)}
    wanted = "the training part" if classes is None else "the list data.classes"
    if classes is None:
        by_label = dict(enumerate(by_class.values()))
    else:
        by_label = _by_label(root, by_class, number, wanted)
    for part in ("val", "test"):
        if part in parts:
            given = _pictures(root, parts[part])
            for label, names in _by_label(root, given, number, wanted).items():
                pictures.add(part, names, label)
    small = []
    for label, names in by_label.items():
        order = sorted(names, key=lambda name: _draw(seed, name, train))
        shares = [
            (part, fraction)
            for part, fraction in (("test", test_fraction), ("val", val_fraction))
            if part not in parts
        ]
        if len(order) <= len(shares):
            small.append(label)
            shares = []
        for place, (part, fraction) in enumerate(shares):
            most = len(order) - (len(shares) - place)
            count = min(max(round(fraction * len(order)), 1), most)
            pictures.add(part, sorted(order[:count], key=canonical), label)
            order = order[count:]
        pictures.add("train", sorted(order, key=canonical), label)
    if len(small) == len(by_label):
        raise HalutError(
            f"{GROUP}: no class of {printable(root)} has enough pictures to be split into "
            f"training, validation and test; three of each are the least"
        )
    _warn_of_missing(pictures, small, partial=classes is not None)
    return pictures


def _parts(root: Path) -> dict[str, str]:
    """The folders of the parts, by part; {} if `root` holds class folders."""
    there = folders(root)
    by_part: dict[str, list[str]] = {
        part: [name for name in there if name.lower() in names] for part, names in PARTS.items()
    }
    if not any(_holds_classes(root / name) for name in by_part["train"]):
        return {}
    if len(there) > len(by_part["train"]) and not by_part["val"] and not by_part["test"]:
        return {}
    parts = {}
    for part, names in by_part.items():
        names = [name for name in names if _holds_classes(root / name)]
        if len(names) > 1:
            raise HalutError(
                f"{GROUP}: {printable(root)} has {' and '.join(map(printable, names))}: which one "
                f"is the {part} part?"
            )
        if names:
            parts[part] = names[0]
    if unused := [name for name in there if name not in parts.values()]:
        log.warning(
            "%s: %s of %s not read: only parts that hold class folders are",
            GROUP,
            ", ".join(map(printable, unused)),
            printable(root),
        )
    return parts


def _holds_classes(folder: Path) -> bool:
    return bool(folders(folder)) and not files(GROUP, folder, SUFFIXES)


def _pictures(root: Path, part: str) -> dict[str, list[str]]:
    """Pictures by class folder, both as paths below `root`; HalutError naming an empty class."""
    folder = root / part
    names = folders(folder)
    if len(names) < 2:
        loose = len(files(GROUP, folder, SUFFIXES))
        raise HalutError(
            f"{GROUP}: {printable(folder)} holds {len(names)} class folders and {loose} pictures; "
            "wanted are two or more folders of pictures, one for each class"
        )
    pictures, foreign = {}, 0
    for name in names:
        below = f"{part}/{name}" if part else name
        paths = walk(GROUP, root / below, (*SUFFIXES, *FOREIGN))
        pictures[below] = [f"{below}/{p}" for p in paths if p.lower().endswith(SUFFIXES)]
        foreign += len(paths) - len(pictures[below])
        if not pictures[below]:
            raise HalutError(
                f"{GROUP}: {printable(root / below)} holds no pictures ({', '.join(SUFFIXES)}): "
                "fill it or take it away"
            )
    if foreign:
        message = f"{foreign} pictures of formats that are not read ({', '.join(FOREIGN)})"
        log.warning("%s: %s leaves out %s", GROUP, printable(folder), message)
    return pictures


def _by_label(
    root: Path, by_class: Mapping[str, list[str]], number: Mapping[str, int], wanted: str
) -> dict[int, list[str]]:
    """Pictures by their class' number; HalutError for a folder that is no class of `wanted`."""
    pictures: dict[int, list[str]] = {}
    for below, names in by_class.items():
        label = number.get(canonical(below.rpartition("/")[2]))
        if label is None:
            raise HalutError(f"{GROUP}: {printable(root / below)} is no class of {wanted}")
        pictures.setdefault(label, []).extend(names)
    return pictures


def _draw(seed: int, name: str, part: str) -> bytes:
    own = canonical(name).removeprefix(f"{canonical(part)}/")
    return hashlib.sha256(f"{seed}/{own}".encode()).digest()


def _warn_of_missing(pictures: Listing, small: list[int], partial: bool) -> None:
    """Warn of classes that are not measured; `partial`: only of those too small to be split."""
    names = [printable(name) for name in pictures.classes]
    counts = Counter(pictures.labels["train"])
    if small:
        text = ", ".join(f"{names[label]} ({counts[label]})" for label in small)
        log.warning("%s: too few pictures to split, all trained on, none tested: %s", GROUP, text)
    for part in () if partial else ("val", "test"):
        missing = set(range(len(names))) - {*pictures.labels[part], *small}
        if missing:
            text = ", ".join(names[label] for label in sorted(missing))
            log.warning("%s: the %s part has no pictures of %s", GROUP, part, text)


def repeated(root: Path, train: list[str], evaluation: list[str], most: int) -> dict[str, str]:
    """Held-out pictures that are trained on too, byte for byte, each with one of its twins.

    Of more than `most` held-out pictures every n-th is looked at.
    """
    evaluation = evaluation[:: max(1, -(-len(evaluation) // most))]
    twins: dict[str, str] = {}
    for key in (os.path.getsize, _head, _digest):
        keys = {name: key(root / name) for name in evaluation}
        trained = {name: key(root / name) for name in train}
        name_of = {value: name for name, value in trained.items()}
        twins = {name: name_of[value] for name, value in keys.items() if value in name_of}
        common = {keys[name] for name in twins}
        evaluation, train = list(twins), [name for name in train if trained[name] in common]
    return twins


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
