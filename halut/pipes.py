"""Output whose reader is gone, as in `halut env | head -1`: the command ends without a word."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

CODE = 128 + 13
"""The exit code of a program that SIGPIPE ends."""


@contextmanager
def quiet_pipes() -> Iterator[None]:
    """Ends the program with CODE where what is written inside is read no more."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        silence()
        sys.exit(CODE)


def silence(*streams: TextIO) -> None:
    """Send what is still in the buffers of the streams, of both if none is given, nowhere: Python
    flushes them as it ends."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        for stream in streams or (sys.stdout, sys.stderr):
            os.dup2(nowhere.fileno(), stream.fileno())  # streams of a test have no file
