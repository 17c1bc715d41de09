"""File names and lists of names in any encoding; hidden files and link loops.

Hidden files (`.DS_Store`, `._a.jpg`, `.ipynb_checkpoints/`) and `__MACOSX/` are no part of any data
set. Names are sorted by their canonical form, so that every machine lists a folder alike.
"""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from halut.errors import HalutError

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def printable(name: str | Path) -> str:
    """A name in one line for messages: bytes that are no UTF-8 as \\xNN, control characters too."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def canonical(name: str) -> str:
    """A name as text in Unicode's composed form; bytes that are no UTF-8 are read as Latin-1."""
    return unicodedata.normalize("NFC", _text(os.fsencode(name)))


def folders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, hidden ones left out."""
    return [name for name, kind in _entries(folder) if kind == "folder"]


def files(group: str, folder: Path, suffixes: Sequence[str]) -> list[str]:
    """Names of the files with one of `suffixes` (lower case; files may have upper), sorted.

    Folders that are named like files are left out. HalutError for a link that leads nowhere.
    """
    names = []
    for name, kind in _entries(folder):
        if not name.lower().endswith(tuple(suffixes)) or kind == "folder":
            continue
        if kind != "file":
            raise HalutError(f"{group}: {printable(folder / name)} is no file, or a broken link")
        names.append(name)
    return names


def walk(group: str, folder: Path, suffixes: Sequence[str]) -> list[str]:
    """`files` of a folder and all folders below it, as paths below it; each folder once."""
    return _walk(group, folder, suffixes, set())


def _walk(group: str, folder: Path, suffixes: Sequence[str], visited: set[str]) -> list[str]:
    real = os.path.realpath(folder)
    if real in visited:  # a link to a folder above, or a second one to the same
        return []
    visited.add(real)
    paths = files(group, folder, suffixes)
    for name in folders(folder):
        paths += [f"{name}/{path}" for path in _walk(group, folder / name, suffixes, visited)]
    return paths


def _entries(folder: Path) -> list[tuple[str, str]]:
    """(name, folder, file or other) of what is not hidden; "other" are broken and looping links."""
    with os.scandir(folder) as entries:
        visible = [
            (entry.name, _kind(entry))
            for entry in entries
            if not entry.name.startswith(".") and entry.name != "__MACOSX"
        ]
    return sorted(visible, key=lambda pair: (canonical(pair[0]), os.fsencode(pair[0])))


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link to itself
        return "other"


def read_lines(group: str, path: Path) -> list[str]:
    """The lines of a text file, stripped, without blank ones.

    UTF-8 or UTF-16, with or without a byte order mark, or UTF-32 with one; a line that is none of
    these is Latin-1. Any line ends. HalutError if the file cannot be read or is no text.
    """
    try:
        raw = path.read_bytes()
        lines = _decoded(raw)
    except OSError as error:
        raise HalutError(f"{group}: cannot read {printable(path)}: {error.strerror}") from error
    except UnicodeError as error:
        raise HalutError(f"{group}: {printable(path)} is no text: {error}") from error
    stripped = (line.strip(" \t\v\f\ufeff") for line in lines)
    return [line for line in stripped if line]


def _decoded(raw: bytes) -> list[str]:
    encoding = next((name for mark, name in _BOMS if raw.startswith(mark)), None)
    if encoding is None and b"\0" in raw:  # no mark: every other byte of ASCII in UTF-16 is zero
        encoding = "utf-16-le" if raw.find(b"\0") % 2 else "utf-16-be"
    if encoding is not None:
        return re.split(r"\r\n|\r|\n", raw.decode(encoding))
    return [_text(line) for line in raw.splitlines()]


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def finder(there: Iterable[str]) -> Callable[[str], str | None]:
    """A look-up of paths as lists write them: the path on disk, or None.

    Backslashes, a leading ./ and the form of accents do not matter; neither does upper case where
    only one file is meant.
    """
    exact: dict[str, str] = {}
    folded: dict[str, list[str]] = {}
    for name in there:
        exact[canonical(name)] = name
        folded.setdefault(canonical(name).casefold(), []).append(name)

    def find(line: str) -> str | None:
        key = canonical(line.replace("\\", "/")).removeprefix("./")
        alike = folded.get(key.casefold(), [])
        return exact.get(key, alike[0] if len(alike) == 1 else None)

    return find
