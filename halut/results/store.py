"""A folder of records in JSON lines, to which many processes append at once."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from halut.errors import HalutError
from halut.io import naming
from halut.results.record import Record, parse

SUFFIX = ".jsonl"


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
    most one line torn.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file: Path | None = None

    def append(self, record: Record) -> None:
        """Write a record; OSError, naming the file, where that is not possible."""
        line = (record.line() + "\n").encode()
        if self._file is None:
            name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
            self._file = self.path / name
        with naming(self._file):
            self.path.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab", buffering=0) as file:
                file.write(line)
                os.fsync(file.fileno())

    def read(self) -> Reading:
        """All records, ordered by the time in their context; HalutError if there is no store."""
        if not self.path.is_dir():
            raise HalutError(f"{self.path}: no such store of results")
        newest: dict[str, Record] = {}
        problems: list[str] = []
        again = 0
        for record in sorted(self._records(problems), key=time_of):
            again += record.key in newest
            newest[record.key] = record
        if again:
            problems.append(f"{again} records were measured again; the newest of each counts")
        return Reading(sorted(newest.values(), key=time_of), problems)

    def keys(self) -> set[str]:
        """Keys of all records; none if there is no store yet."""
        return {record.key for record in self.read().records} if self.path.is_dir() else set()

    def _records(self, problems: list[str]) -> Iterator[Record]:
        for file in sorted(self.path.glob(f"*{SUFFIX}")):
            with naming(file):
                lines = file.read_text("utf-8", "replace").splitlines()
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    yield parse(line)
                except HalutError as error:
                    problems.append(f"{file.name}, line {number}: {error}")


def time_of(record: Record) -> str:
    """When it was measured, in ISO 8601; "" where it does not say."""
    return str(record.context.get("time", ""))
