"""Image files to 8-bit pictures of one or three channels; image properties without decoding.

- Gray of more than 8 bits (16-bit PNG and TIFF, 32-bit integers, floats) is scaled, not clipped:
  `white` becomes 255. It defaults to 65535, of floats to 1, so 16 bits are divided by 257. (PIL's
  own conversion clips at 255: all of it becomes white.)
- Alpha is dropped, palettes are applied, CMYK and the like are converted: `convert("RGB")`, as
  torchvision and timm read them. Of animations the first frame counts.
- The orientation in EXIF is applied if `upright`. torchvision and timm ignore it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from halut.data.files import printable
from halut.errors import HalutError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
GRAY = ("1", "L", "LA", "La", *WIDE)
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_THREADS = 8
MANY = 20_000
"""Training files that are looked at before training: bad ones among more turn up in an epoch."""


@dataclass(frozen=True)
class Header:
    """What a file says of its picture: PIL's mode and the sides in pixels."""

    mode: str
    width: int
    height: int


def read_image(
    place: str,
    path: Path,
    channels: int = 3,
    white: float | None = None,
    upright: bool = False,
    least: int | None = None,
) -> Any:
    """A PIL image of mode L (`channels` 1) or RGB (3).

    A JPEG of which `least` pixels a side are enough is decoded at a fraction of its size.
    HalutError naming the file if it is damaged, no image, or holds what has no place in 0..white.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if least is not None:
                image.draft(None, (least, least))  # None keeps the mode
            image.load()
            picture: Any = _upright(image) if upright else image
            if picture.mode in WIDE:
                picture = Image.fromarray(_eight_bits(np.asarray(picture), white))
            elif picture.mode in ("P", "PA"):
                picture = picture.convert("RGBA")  # straight to RGB, PIL warns of transparency
            return picture.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # PIL's parsers raise whatever they stumble over
        raise _unreadable(place, path, error) from error


def inspect(
    place: str, folder: Path, files: Sequence[str], most: int | None = None
) -> list[Header]:
    """Headers of `files` below `folder`, so that a run does not meet a bad one hours later.

    Files that do not end as their format does are decoded whole. Of more than `most` files an even
    choice is looked at, the same always. HalutError naming the first file that is damaged or no
    image, and how many more there are.
    """

    def look(file: str) -> Header | HalutError:
        try:
            return _header(folder / file)
        except Exception as error:  # as in read_image
            return _unreadable(place, folder / file, error)

    step = 1 if most is None else max(1, -(-len(files) // most))
    with ThreadPoolExecutor(_THREADS) as pool:
        headers = list(pool.map(look, files[::step]))
    if failed := [header for header in headers if isinstance(header, HalutError)]:
        more = f" (and {len(failed) - 1} more like it)" if len(failed) > 1 else ""
        raise HalutError(f"{failed[0]}{more}")
    return [header for header in headers if isinstance(header, Header)]


def largest(group: str, path: Path) -> float:
    """The largest value of a picture, as the file has it; HalutError as read_image."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            high = float(np.asarray(image).max())
            if not np.isfinite(high):
                raise ValueError("it holds NaN or infinity")
            return high
    except Exception as error:  # as in read_image
        raise _unreadable(group, path, error) from error


def _header(path: Path) -> Header:
    from PIL import Image

    with path.open("rb") as file, Image.open(file) as image:
        header = Header(image.mode, *image.size)
        end = _ENDS.get(image.format or "")
        place = file.tell()
        file.seek(-len(end or b"."), os.SEEK_END)
        whole = end is not None and file.read() == end
        file.seek(place)
        if not whole:
            image.load()
        return header


def _upright(image: Any) -> Any:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing, but the picture is whole
        return image


def _eight_bits(values: np.ndarray, white: float | None) -> np.ndarray:
    """Gray values of any type -> uint8: 0..white to 0..255, clipped only if white is given.

    Raises ValueError for values that are not finite or, without `white`, out of range.
    """
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity")
    top = white or (1.0 if values.dtype.kind == "f" else 65535.0)
    low, high = float(values.min()), float(values.max())
    if white is None and (low < 0 or high > top):
        raise ValueError(f"it holds {low:g}..{high:g}: set data.white to the value of white")
    return np.rint(np.clip(values.astype(np.float64) / top, 0, 1) * 255).astype(np.uint8)


def _unreadable(group: str, path: Path, error: Exception) -> HalutError:
    from PIL import UnidentifiedImageError

    reason: object = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "is not an image"
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    if isinstance(error, OSError) and os.path.isfile(path) and os.path.getsize(path) == 0:
        reason = "it is empty"
    return HalutError(f"{group}: cannot read {printable(path)}: {reason}")
