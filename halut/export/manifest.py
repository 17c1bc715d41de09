"""export.json: what an export folder holds, with the digest of every file."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from halut import __version__
from halut.errors import HalutError
from halut.export.targets import Written
from halut.io import read_json, write_json

NAME = "export.json"
SCHEMA = 1
FIELDS = {"schema": int, "target": str, "versions": dict, "files": dict}


@dataclass(frozen=True)
class Export:
    """A checked export: its folder, the target that wrote it, and its whole manifest."""

    folder: Path
    target: str
    manifest: Mapping[str, Any]


def write_manifest(folder: Path, target: str, written: Written, options: Mapping[str, Any]) -> None:
    """Write export.json: schema, target, options, versions, files with bytes and SHA-256, the
    difference of the answers, and the target's own details."""
    found = written.difference
    content = {
        "schema": SCHEMA,
        "target": target,
        "options": dict(options),
        "versions": {
            "python": platform.python_version(),
            "halut": __version__,
            "torch": torch.__version__,
            **written.versions,
        },
        "difference": None if found is None else asdict(found),
        "files": file_entries(folder),
        **written.details,
    }
    write_json(folder / NAME, content)


def read_export(folder: str | Path) -> Export:
    """The export in `folder`, every file of which is as it was written.

    Raises HalutError if there is none, if it is of a newer version, or naming the file that is
    missing, truncated or edited.
    """
    folder = Path(folder)
    if not (folder / NAME).is_file():
        raise HalutError(f"{folder} is no export: it has no {NAME}")
    manifest = read_json(folder / NAME, FIELDS)
    if manifest["schema"] > SCHEMA:
        raise HalutError(
            f"{folder / NAME} is of schema {manifest['schema']}, newer than this halut, which "
            f"reads up to {SCHEMA}"
        )
    for name, entry in manifest["files"].items():
        _check(folder / name, entry)
    return Export(folder, manifest["target"], manifest)


def _check(path: Path, entry: Any) -> None:
    if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
        raise HalutError(f"{path.parent / NAME}: damaged: no bytes and sha256 of {path.name}")
    if not path.is_file():
        raise HalutError(f"{path} is missing, which the export's {NAME} names")
    size = path.stat().st_size
    if size < entry["bytes"]:
        raise HalutError(f"{path} is truncated: {size} of {entry['bytes']} bytes")
    if size > entry["bytes"] or digest(path) != entry["sha256"]:
        raise HalutError(f"{path} was edited since it was exported: its digest is another")


def file_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a folder, by its path from there."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()  # file_digest is of Python 3.11
