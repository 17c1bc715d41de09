"""Progress bars and messages, on one rank only."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from halut.training.logging.run_progress import run
from halut.training.parallel.distributed import is_main, rank

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


def warn(message: str) -> None:
    """One line on the standard error, before logging is set up; the main rank's alone."""
    if is_main():
        print(f"warning: {message}", file=sys.stderr, flush=True)


@contextmanager
def bar(title: str, total: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields a function to call with the number of things done since.

    Where the output is no terminal: a line a minute.
    """
    done = 0
    with batches_shown(shown, title, total) as show:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            show(title, done, total)

        yield advance


@contextmanager
def batches_shown(
    shown: bool = True, title: str = "", total: int | None = None
) -> Iterator[Callable[[str, int, int], None]]:
    """Yields show(what, done, total): where the whole run is, and how long it still takes.

    A bar on a terminal, a line a minute elsewhere; nothing on other ranks.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    shown = shown and is_main()
    terminal = shown and console.is_terminal
    with Progress(*columns, console=console, disable=not terminal, transient=True) as progress:
        task = progress.add_task(_place(title), total=total, left=run.remaining())

        def show(what: str, done: int, total: int) -> None:
            place, left = _place(what), run.remaining()
            if terminal:
                progress.update(task, description=place, completed=done, total=total, left=left)
            elif shown and run.due():
                log.info("%s", ", ".join(filter(None, (place, f"{done} of {total}", left))))

        yield show


def _place(what: str) -> str:
    """stage 3 of 8, epoch 2 of 5: the run's place, and what is done there."""
    parts = [*run.place.split(", "), *([] if run.place.endswith(what) else [what])]
    return ", ".join(filter(None, parts))
