"""A folder of records in JSON lines, to which many processes append at once."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from halut.errors import HalutError
from halut.io import TEMPORARY, naming
from halut.results.record import Record, parse

SUFFIX = ".jsonl"
DEFAULT = Path("results")
"""Folder of the store of the verbs that are not given another."""
ACTIVE = ".active"
"""Ending of the files of processes that measure for the store."""
DAY = 24 * 60 * 60
"""Seconds for which such a file counts."""
IS_FILE = "a file, and a store is a folder"


@dataclass(frozen=True)
class Reading:
    """What a store holds: one record of each key, the newest, and what could not be read or was
    passed over, a line each."""

    records: list[Record]
    problems: list[str] = field(default_factory=list)


class Store:
    """The records in a folder, a file for every process that wrote.

    No two processes share a file, so that none needs a lock, on a network's file system as well;
    each record is a line, written at once and flushed to disk. A process that is killed leaves at
    most one line torn, and what is written after it goes into another file.

    >>> store = Store("results")
    >>> store.append(record)
    >>> [each.figures["lost"] for each in store.read().records]
    [0.4]
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file: Path | None = None
        self._process = os.getpid()
        self._keys: set[str] = set()
        self._places: dict[str, int] = {}  # by file: up to where `keys` has read it

    def prepare(self) -> None:
        """Make the folder; OSError, naming it, where nothing can be written there.

        To be called before measurements that take long.
        """
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, IS_FILE, self.path)
        with naming(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f"{TEMPORARY}{secrets.token_hex(8)}"
            probe.touch()
            probe.unlink()

    def append(self, record: Record) -> None:
        """Write a record; OSError, naming the file, where that is not possible."""
        line = (record.line() + "\n").encode()
        if self._file is None or self._process != os.getpid():  # a fork has a file of its own
            self._process = os.getpid()
            self._file = self.path / f"{_own_name()}{SUFFIX}"
        file, self._file = self._file, None  # after a failure, which may leave a torn line, another
        with naming(file):
            self.path.mkdir(parents=True, exist_ok=True)
            with file.open("ab", buffering=0) as stream:
                count = stream.write(line)
                while count < len(line):
                    count += stream.write(line[count:])
                os.fsync(stream.fileno())
        self._file = file

    def read(self) -> Reading:
        """All records, ordered by the time in their context.

        Raises HalutError if there is no store; OSError if its folder cannot be read.
        """
        if not self.path.is_dir():
            words = IS_FILE if self.path.exists() else "no such store of results"
            raise HalutError(f"{self.path}: {words}")
        newest: dict[str, Record] = {}
        problems: list[str] = []
        again = 0
        for record in sorted(self._records(problems), key=time_of):
            again += record.key in newest
            newest[record.key] = record
        if again:
            records = "1 record was" if again == 1 else f"{again} records were"
            problems.append(f"{records} measured again; the newest of each counts")
        return Reading(sorted(newest.values(), key=time_of), problems)

    def keys(self) -> set[str]:
        """Keys of all records that can be read; none if there is no store yet.

        Called again, it reads only what was appended since, by whichever process.
        """
        self._follow_all()
        return set(self._keys)

    def __contains__(self, key: str) -> bool:
        """Whether there is a record of that key by now; see `keys`."""
        self._follow_all()
        return key in self._keys

    def _follow_all(self) -> None:
        if not self.path.is_dir():
            return
        with naming(self.path), os.scandir(self.path) as entries:
            files = [each for each in entries if each.name.endswith(SUFFIX)]
        for file in files:
            try:
                self._follow(file)
            except OSError:  # of which `read` tells
                continue

    def _follow(self, file: os.DirEntry[str]) -> None:
        """Take in the keys of the complete lines that a file has beyond its place."""
        place = self._places.get(file.name, 0)
        if file.stat().st_size <= place:
            return
        with open(file.path, "rb") as stream:
            stream.seek(place)
            lines, newline, _ = stream.read().rpartition(b"\n")
        self._places[file.name] = place + len(lines) + len(newline)
        for line in lines.split(b"\n"):
            with contextlib.suppress(HalutError):
                self._keys.add(parse(line).key)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[bool]:
        """Within, a file in the store says that this process is measuring for it.

        Yields whether another one says so, which then may be about to measure the same. A process
        that is killed leaves its file; it counts for a day. OSError where nothing can be written.
        """
        own = self.path / f"{_own_name()}{ACTIVE}"
        with naming(own):
            self.path.mkdir(parents=True, exist_ok=True)
            own.touch()
            oldest = own.stat().st_mtime - DAY
        try:
            yield any(each != own and _modified(each) > oldest for each in self._active_files())
        finally:
            own.unlink(missing_ok=True)

    def _active_files(self) -> list[Path]:
        return [each for each in self.path.iterdir() if each.suffix == ACTIVE]

    def _records(self, problems: list[str]) -> Iterator[Record]:
        with naming(self.path):
            files = sorted(each for each in self.path.iterdir() if each.suffix == SUFFIX)
        for file in files:
            try:
                lines = file.read_bytes().split(b"\n")
            except OSError as error:
                problems.append(f"{file.name}: cannot be read: {error.strerror}")
                continue
            bad: Counter[str] = Counter()
            first: dict[str, int] = {}
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    yield parse(line)
                except HalutError as error:
                    bad[str(error)] += 1
                    first.setdefault(str(error), number)
            for message, count in bad.items():
                more = f" (and {count - 1} more)" if count > 1 else ""
                problems.append(f"{file.name}, line {first[message]}{more}: {message}")


def _own_name() -> str:
    """A name that no other process gives, nor this one again."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _modified(path: Path) -> float:
    """When a file was modified, in seconds; 0 if it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def time_of(record: Record) -> str:
    """When it was measured, in ISO 8601; "" where it does not say."""
    return str(record.context.get("time", ""))
