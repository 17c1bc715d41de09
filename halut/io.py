"""Atomic file writes, and state files read with a clear error where damaged."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from halut.errors import HalutError

TEMPORARY = ".halut-"
"""How the name of a file begins while it is written; a kill may leave it behind."""
Kind = type | tuple[type, ...]


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, flush it to disk, and rename it.

    Its mode is what the umask leaves of 0666. An OSError names `path`.
    """
    path = Path(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Short and of its own, not made of path.name, which may be as long as a name can be.
        temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def write_folder(path: Path, marker: str) -> Iterator[Path]:
    """A folder to write into, which becomes `path` when the block ends, whole or not at all.

    A folder that is there is replaced if it is empty or holds a file called `marker`, by which such
    folders are told; HalutError for any other.
    """
    path = Path(path)
    if path.exists() and not (
        (path / marker).is_file() or (path.is_dir() and not any(path.iterdir()))
    ):
        raise HalutError(f"{path} is there, and not as such a folder: it has no {marker}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, before = (path.parent / f"{TEMPORARY}{secrets.token_hex(8)}" for _ in range(2))
        try:
            temporary.mkdir()
            yield temporary
            if path.exists():
                path.rename(before)
            temporary.rename(path)
        finally:
            if before.exists() and not path.exists():
                before.rename(path)
            for rest in (temporary, before):
                shutil.rmtree(rest, ignore_errors=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError raised in here names `path`: those of a write name no file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; values that are not finite become null, since JSON has none."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path, fields: Mapping[str, Kind] | None = None) -> Any:
    """What a JSON file holds. HalutError naming the file if it is damaged.

    `fields`: it must be an object with these keys, of these types (`bool` counts as no `int`).
    """
    with reading(path):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if fields is None:
            return content
        if not isinstance(content, dict):
            raise TypeError(f"an object is wanted, not {_kind(content)}")
        for key, kind in fields.items():
            kinds = kind if isinstance(kind, tuple) else (kind,)
            value = content.get(key)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise TypeError(f"{key!r} is {_kind(value) if key in content else 'missing'}")
            if isinstance(value, int):
                float(value)  # OverflowError: no number that a run could have written
        return content


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What fails in here fails because of what the file `path` holds: a HalutError that says so."""
    try:
        yield
    except HalutError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        message = " ".join(str(error).split())[:200]
        missing = "no " if isinstance(error, KeyError) else ""
        raise HalutError(f"{path}: damaged: {missing}{message}") from error
    except RecursionError as error:
        raise HalutError(f"{path}: damaged: nested too deep") from error


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
