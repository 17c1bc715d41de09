"""One stream of figures over all stages: metrics.csv always, W&B where asked.

The step is monotonic over the whole run: `offset` plus the step of the present fit.
"""

from __future__ import annotations

import csv
import io
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from halut.io import naming, write_bytes
from halut.training.parallel.distributed import is_main

FIELDS = ("step", "stage", "key", "value")
HEADER = (",".join(FIELDS) + "\n").encode()


class Sink(Protocol):
    """Where figures go."""

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Take figures of one step."""

    def close(self) -> None:
        """Flush and finish."""


class CsvSink:
    """metrics.csv, one figure a line (step, stage, key, value), appended and flushed."""

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

    def rewind(self, step: int) -> None:
        """Drop figures from `step` on, and damaged lines: a resumed fit writes them again.

        Figures of a stage as a whole (stage/...) are written once, before its fit, and stay.
        """
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n") and _kept(line, step)]
        write_bytes(self.path, b"".join([HEADER, *kept]))


def _kept(line: bytes, step: int) -> bool:
    first, _, key, *_ = [*line.split(b","), b"", b"", b""]
    digits = first.isdigit() and len(first) < 19
    return digits and (int(first) < step or key.startswith(b"stage/"))


class RunLogger(Logger):
    """Lightning's view of the run's sinks; one instance serves every Trainer of a run."""

    def __init__(self, sinks: list[Sink]) -> None:
        super().__init__()
        self.sinks = sinks
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
        """The configuration is in config.yaml."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not is_main():
            return
        figures = {
            key: float(value.item() if isinstance(value, Tensor) else value)
            for key, value in metrics.items()
            if key != "epoch"
        }
        if not figures:
            return
        for sink in self.sinks:
            sink.log(self.stage, self.offset + (step or 0), figures)

    def rewind(self, step: int) -> None:
        """Forget figures of this fit's steps from `step` on, where a sink can: they come again."""
        for sink in self.sinks:
            if isinstance(sink, CsvSink):
                sink.rewind(self.offset + step)

    def finish(self) -> None:
        """Close every sink."""
        for sink in self.sinks:
            sink.close()
