"""Progress bars and messages, on one rank only."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from halut.training.distributed import is_main, rank

console = Console()
if not console.is_terminal:
    console = Console(width=140, soft_wrap=False)  # tables in files and pipes keep their columns
log = logging.getLogger("halut")


class _Plain(logging.StreamHandler):
    """Lines to the standard output of the moment, unwrapped."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stdout, flush=True)


def set_up_logging() -> None:
    """One line per message; other ranks report warnings and errors only."""
    log.setLevel(logging.INFO if is_main() else logging.WARNING)
    if not log.handlers:
        handler: logging.Handler
        if console.is_terminal:
            handler = RichHandler(console=console, show_path=False, show_level=False)
            handler.setFormatter(logging.Formatter("%(message)s", datefmt="[%X]"))
        else:
            handler = _Plain()
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        log.addHandler(handler)
        log.propagate = False


def complain(message: str) -> None:
    """One message on the standard error, whole, without a traceback.

    The other ranks give the first time to say the same and to end them all.
    """
    message = " ".join(message.split("\n"))
    if is_main():
        print(f"error: {message}", file=sys.stderr, flush=True)
    else:
        time.sleep(5)
        print(f"error on rank {rank()}: {message}", file=sys.stderr, flush=True)


@contextmanager
def bar(title: str, total: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields a function to call with the number of things done since."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    shown = shown and is_main() and console.is_terminal
    with Progress(*columns, console=console, disable=not shown, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, advance=done)
