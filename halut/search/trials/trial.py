"""One trial: overrides, run as train.py runs them, and what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import hashlib
import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from halut.analysis.run_figures import figures_of
from halut.errors import HalutError, message_of, reason
from halut.search.trials.planner import Planner
from halut.training.cluster.lock import InUse
from halut.training.run import run

FIGURES = (
    *("val_accuracy", "base.val_accuracy", "swapped_accuracy", "bytes", "table_bytes"),
    *("operations", "bops", "energy", "weight_bits", "seconds"),
)
"""What is kept of a trial's report."""
PLAIN = ("baseline=false", "ptq=none")
"""Of trials, unless the words say otherwise: the others are what they are compared with."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What the operating system says of a disk that cannot be written to."""
WAIT_SECONDS = 1.0
"""Between two looks at a run that another process is at."""


class TrialFailed(Exception):
    """A trial that has no figures, with the reason."""


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """What goes wrong inside is a TrialFailed, whatever it is: networks may be a user's own code.

    A disk that takes no more is not the trial's fault.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        raise TrialFailed(reason(error) or message_of(error)) from error


@dataclass(frozen=True)
class Runner:
    """Runs trials in folders below `folder`; their records go to the store `results`."""

    planner: Planner
    folder: Path
    results: Path | None

    def words(self, overrides: Sequence[str]) -> list[str]:
        """The overrides with those that trials have by default."""
        keys = {word.lstrip("+").partition("=")[0] for word in overrides}
        return [*overrides, *(each for each in PLAIN if each.partition("=")[0] not in keys)]

    def run_dir(self, overrides: Sequence[str]) -> Path:
        """The folder of a trial: equal overrides share it, in any order, of all samplers."""
        digest = hashlib.sha256("\n".join(sorted(self.words(overrides))).encode()).hexdigest()
        return self.folder / "trials" / digest[:12]

    def command(self, overrides: Sequence[str]) -> str:
        """What a user types to run the trial again; the test split is read then."""
        return shlex.join(["python", "train.py", *self.words(overrides)])

    def run(
        self,
        overrides: Sequence[str],
        after_stage: Callable[[int, float], object] = lambda *_: None,
        test: bool = False,
    ) -> dict[str, Any]:
        """The report; what the run prints goes to a file of logs. What a run of the same overrides
        left is taken up; a run that another process is at is waited for.

        What `after_stage` raises is raised; all else that goes wrong is a TrialFailed (`failing`).
        """
        words, path = self.words(overrides), self.run_dir(overrides)
        threads = torch.get_num_threads()
        log = self.folder / "logs" / f"{path.name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        stopped: list[Exception] = []

        def notify(index: int, accuracy: float) -> None:
            try:
                after_stage(index, accuracy)
            except Exception as error:
                stopped.append(error)
                raise

        try:
            with failing():
                config = dataclasses.replace(
                    self.planner.config(words),
                    run_dir=str(path),
                    results=None if self.results is None else str(self.results),
                    test=test,
                )
                while True:
                    try:
                        with log.open("a", encoding="utf-8") as file, redirect_stdout(file):
                            return run(config, notify)
                    except InUse:
                        time.sleep(WAIT_SECONDS)
        except (TrialFailed, OSError):
            if stopped:
                raise stopped[0] from None
            raise
        finally:
            torch.set_num_threads(threads)
            gc.collect()  # the networks of one trial; Lightning's loops hold each other


def figures(report: dict[str, Any], names: Sequence[str] = ()) -> dict[str, float]:
    """FIGURES of a report, and those of `names`. TrialFailed if one of `names` is missing or not
    finite."""
    every = figures_of(report)
    for name in names:
        value = every.get(name)
        if value is None or not math.isfinite(value):
            raise TrialFailed(f"{name} is {'missing' if value is None else value}")
    kept = dict.fromkeys((*FIGURES, *names))
    return {name: value for name in kept if (value := every.get(name)) is not None}


def check_objective(name: str) -> None:
    """Raise HalutError for an objective that is no accuracy on validation data."""
    known = ("val_accuracy", "base.val_accuracy", "swapped_accuracy")
    if name not in known:
        raise HalutError(f"objective={name}: choose one of: {', '.join(known)}")
