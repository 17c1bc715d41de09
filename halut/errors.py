"""Errors that a user can cause, and the one line that tells them; output whose reader is gone."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

OURS = tuple(
    str(folder) + os.sep
    for folder in (Path(__file__).resolve().parent, Path(__file__).with_name("data").resolve())
)
FAULTS = (TypeError, AssertionError, AttributeError, NameError, LookupError, ArithmeticError)
"""What a mistake in a program raises; a refusal only where a library's own code raises it."""
MAX_MESSAGE_LENGTH = 600
"""Characters of a library's message; some list every tensor of a network."""
SIGPIPE_CODE = 128 + 13
"""The exit code of a program that SIGPIPE ends."""


class HalutError(ValueError):
    """Bad input. The message names what was wrong, where, and the choices.

    The command line prints it without a traceback and exits with a non-zero code.
    """


def reason(error: BaseException) -> str | None:
    """One line that tells a user what went wrong; None if this program itself is at fault.

    Told are HalutErrors, what the operating system refuses, exhausted memory, and the refusals of
    libraries such as torch and Lightning; no refusal is a TypeError and the like raised here.
    """
    line = _reason(error)
    return line if line is None else line.encode(errors="backslashreplace").decode()


def _reason(error: BaseException) -> str | None:
    text = " ".join(str(error).split())
    if isinstance(error, HalutError):
        return text
    if isinstance(error, OSError):
        places = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([*([" -> ".join(places)] if places else []), error.strerror or text])
    if isinstance(error, UnicodeError):
        return f"text that cannot be read or written: {text}"
    if len(text) > MAX_MESSAGE_LENGTH:
        text = f"{text[:MAX_MESSAGE_LENGTH]} ..."
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return f"out of memory; smaller batches need less ({text or 'MemoryError'})"
    if type(error).__module__.split(".")[0] in ("hydra", "omegaconf"):
        return text
    if isinstance(error, FAULTS) and _raised_here(error):
        return None
    return f"{type(error).__name__}: {text} (debug=traceback shows where)"


def message_of(error: BaseException) -> str:
    """What an error says, in one line; its kind, if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def report_error(
    error: Exception, print_line: Callable[[str], None], with_traceback: bool = False
) -> None:
    """Give `print_line` the line of an error that ends a command.

    The traceback goes before it where it is asked for (`with_traceback`), or where this program is
    at fault.
    """
    line = reason(error)
    if with_traceback or line is None:
        traceback.print_exception(error)
    print_line(line or " ".join(f"{type(error).__name__}: {error}".split()))
    keep_quiet()


def flush() -> None:
    """Write out what was printed; OSError, naming the standard output, if that cannot be."""
    try:
        sys.stdout.flush()
    except OSError as error:
        error.filename = "standard output"
        raise


def keep_quiet() -> None:
    """Where the standard output takes no more, spare the user what Python says of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        silence(sys.stdout)


@contextmanager
def quiet_pipes() -> Iterator[None]:
    """Ends the program, without a word, with SIGPIPE_CODE where what is written inside is read no
    more, as in `halut env | head -1`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        silence()
        sys.exit(SIGPIPE_CODE)


def silence(*streams: TextIO) -> None:
    """Send what is still in the buffers of the streams, of both if none is given, nowhere: Python
    flushes them as it ends."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        for stream in streams or (sys.stdout, sys.stderr):
            os.dup2(nowhere.fileno(), stream.fileno())  # streams of a test have no file


def _raised_here(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return not frames or frames[-1].filename.startswith(OURS)
