"""Progress bars and log messages, on rank 0 only."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from halut.training.logging.run_progress import run
from halut.training.parallel.distributed import is_main

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


@contextmanager
def progress_bar(title: str, total: int, enabled: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields a function to call with the number of things done since.

    Where the output is no terminal: a line a minute.
    """
    done = 0
    with batches_shown(enabled, title, total) as show:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            show(title, done, total)

        yield advance


@contextmanager
def batches_shown(
    enabled: bool = True, title: str = "", total: int | None = None
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
    enabled = enabled and is_main()
    terminal = enabled and console.is_terminal
    with Progress(*columns, console=console, disable=not terminal, transient=True) as progress:
        task = progress.add_task(_position(title), total=total, left=run.remaining())

        def show(what: str, done: int, total: int) -> None:
            position, time_left = _position(what), run.remaining()
            if terminal:
                progress.update(
                    task, description=position, completed=done, total=total, left=time_left
                )
            elif enabled and run.due():
                log.info("%s", ", ".join(filter(None, (position, f"{done} of {total}", time_left))))

        yield show


def _position(what: str) -> str:
    """stage 3 of 8, epoch 2 of 5: the run's place, and what is done there."""
    parts = [*run.position.split(", "), *([] if run.position.endswith(what) else [what])]
    return ", ".join(filter(None, parts))
