"""Output whose reader is gone, as in `halut env | head -1`: the command ends without a word."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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


def silence() -> None:
    """Send what is still in the streams' buffers nowhere: Python flushes them as it ends."""
    with suppress(OSError, ValueError):  # streams of a test have no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
