"""One stream of figures over all stages: metrics.csv always, other loggers where asked.

The step is monotonic over the whole run: `offset` plus the step of the present fit.
"""

from __future__ import annotations

import csv
import io
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from halut.errors import message_of
from halut.io import naming, write_bytes
from halut.training.logging.progress import log
from halut.training.parallel.distributed import is_main

FIELDS = ("step", "stage", "key", "value")
HEADER = (",".join(FIELDS) + "\n").encode()


class StageLogger(Protocol):
    """Where figures of all stages go, under the step of the whole run."""

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Take figures of one step."""

    def close(self) -> None:
        """Flush and finish."""


class MetricsCsv:
    """metrics.csv, one figure a line (step, stage, key, value), appended and flushed.

    Lightning's CSVLogger has a file for each fit, with a column for every figure, and writes it
    anew when a figure is new; and it cannot take back what a resumed fit logs again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            write_bytes(path, HEADER)
        elif not path.read_bytes().endswith(b"\n"):  # torn by a kill; nothing may be glued to it
            self.rewind(sys.maxsize)

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for key, value in figures.items():
            writer.writerow((step, stage, key, repr(float(value))))
        with naming(self.path), self.path.open("a") as file:
            file.write(text.getvalue())

    def close(self) -> None:
        """Nothing is held open."""

    def rewind(self, step: int) -> set[tuple[int, str]]:
        """Drop figures from `step` on, and damaged lines: a resumed fit writes them again.

        Figures of a stage as a whole (stage/...) are written once, before its fit, and stay.
        Returns the step and the key of those that were dropped.
        """
        kept, dropped = [HEADER], set()
        for line in self.path.read_bytes().splitlines(keepends=True):
            fields = line.split(b",")
            if line.endswith(b"\n") and _line_before(line, step):
                kept.append(line)
            elif line.endswith(b"\n") and len(fields) == len(FIELDS) and fields[0].isdigit():
                dropped.add((int(fields[0]), fields[2].decode(errors="replace")))
        write_bytes(self.path, b"".join(kept))
        return dropped


def _line_before(line: bytes, step: int) -> bool:
    first, _, key, *_ = [*line.split(b","), b"", b"", b""]
    digits = first.isdigit() and len(first) < 19
    return digits and (int(first) < step or key.startswith(b"stage/"))


class RunLogger(Logger):
    """Lightning's view of the run's loggers; one instance serves every Trainer of a run.

    An error of metrics.csv ends the run. Any other logger that fails is left out from there on.
    """

    def __init__(self, loggers: Sequence[StageLogger]) -> None:
        super().__init__()
        self.loggers = list(loggers)
        self.offset = 0
        self.stage = ""

    @property
    def name(self) -> str:
        return "halut"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """The configuration is in config.yaml, and every logger has it from its beginning."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not is_main():
            return
        figures = {
            key: float(value.item() if isinstance(value, Tensor) else value)
            for key, value in metrics.items()
            if key != "epoch"
        }
        if figures:
            self._each("log", self.stage, self.offset + (step or 0), figures)

    def rewind(self, step: int) -> None:
        """Forget figures of this fit's steps from `step` on, where a logger can: they come again.

        Loggers that cannot are told which.
        """
        repeated: set[tuple[int, str]] = set()
        for logger in self.loggers:
            if isinstance(logger, MetricsCsv):
                repeated |= logger.rewind(self.offset + step)
        self._each("repeats", repeated)

    def log_bundle(self, folder: Path, report: Mapping[str, Any]) -> None:
        """The run is done: its bundle and its report, to loggers that take them."""
        self._each("log_bundle", folder, report)

    def finish(self) -> None:
        """Close every logger."""
        self._each("close")

    def _each(self, method: str, *arguments: Any) -> None:
        """Call a method of every logger that has it."""
        for logger in list(self.loggers):
            call = getattr(logger, method, None)
            if call is None:
                continue
            try:
                call(*arguments)
            except Exception as error:
                if isinstance(logger, MetricsCsv):
                    raise
                self.loggers.remove(logger)
                reason = message_of(error)
                name = getattr(logger, "name", type(logger).__name__)
                log.warning("logger %s failed and is left out from here on: %s", name, reason)


def numbers_of(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """name/key/... of every number in nested mappings."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from numbers_of(f"{name}/{key}", inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
