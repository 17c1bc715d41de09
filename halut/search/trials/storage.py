"""Storage of studies: a journal on disk, which workers share, or the URL of a database."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from halut.errors import HalutError, message_of

JOURNAL = "journal.log"
MISSING = "halut search sampler=... needs Optuna: pip install 'halut[search]'; budgets need it not"


def optuna() -> Any:
    """The library, which says warnings and errors alone; HalutError if it is not installed."""
    try:
        import optuna as library
    except ImportError as error:
        raise HalutError(MISSING) from error
    library.logging.set_verbosity(library.logging.ERROR)
    return library


def open_storage(folder: Path, url: str | None = None) -> Any:
    """The storage at `url`, or the journal in `folder`. HalutError if it cannot be opened.

    A torn line at the journal's end, of a process that was killed as it wrote, is cut off: Optuna
    refuses a journal that goes on behind one.
    """
    library = optuna()
    if url is not None:
        try:
            return library.storages.get_storage(url)
        except Exception as error:  # those of SQLAlchemy and of each database's driver
            raise HalutError(f"--storage {url}: {message_of(error)}") from error
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    path = folder / JOURNAL
    folder.mkdir(parents=True, exist_ok=True)
    lock = JournalFileSymlinkLock(str(path))
    if path.exists():
        with _held(lock):
            _cut_torn_line(path)
        _check(path)
    return library.storages.JournalStorage(JournalFileBackend(str(path), lock))


@contextlib.contextmanager
def _held(lock: Any) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            os.fsync(file.fileno())


def _check(path: Path) -> None:
    """Raise HalutError where a line of the journal is none."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                if not isinstance(json.loads(line), dict):
                    raise ValueError("no object")
            except ValueError as error:
                raise HalutError(
                    f"{path}: line {number} is no entry of a journal; give another --out"
                ) from error
