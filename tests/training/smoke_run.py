"""Whole runs of a few steps on the digits, and what they leave.

All share a narrow ResNet-8 with random weights whose last two 3x3 convolutions are replaced.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

NARROW = ("model=resnet8", "model.options.width=8")
LAST = ("stack3.conv1", "stack3.conv2")
COMMON = (
    "debug=smoke",
    "debug.traceback=false",
    "data.batch_size=16",
    "baseline=false",
    "trainer.accelerator=cpu",
)
UNLEARNED = ("exact", "block_fp", "mxint8")
"""Operators that learn nothing from samples."""


@dataclass
class Run:
    """The folder of a finished run."""

    path: Path

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.path / "report.json").read_text())

    @property
    def plan(self) -> dict[str, dict[str, Any]]:
        """Entries by site."""
        plan = json.loads((self.path / "plan.json").read_text())
        return {entry["site"]["name"]: entry for entry in plan["entries"]}

    @property
    def stages(self) -> list[list[str]]:
        return [stage["sites"] for stage in self.report["stages"]]

    def logged(self, key: str) -> list[float]:
        with (self.path / "metrics.csv").open() as file:
            return [float(row["value"]) for row in csv.DictReader(file) if row["key"] == key]

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.path / f"{name}.safetensors")


def runner(train: Callable[..., Any], folder: Path) -> Callable[..., Run]:
    """run(name, *arguments): `python train.py` with the common options and those, to its end."""

    def run(name: str, *arguments: str, only: tuple[str, ...] = LAST, model=NARROW) -> Run:
        sites = [f"policy.only=[{','.join(only)}]"] if only else []
        options = [*COMMON]
        if "schedule.epochs=0" not in arguments:
            options.append("logger.every=1")
        if not any(each.removeprefix("halut=") in UNLEARNED for each in arguments):
            options.append("capture.samples=64")
        outcome = train(*options, f"run_dir={folder / name}", *model, *sites, *arguments)
        assert outcome.code == 0, outcome.err
        return Run(folder / name)

    return run


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that differ."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def distance(a: dict[str, Tensor], b: dict[str, Tensor], name: str) -> float:
    return float((a[name].double() - b[name].double()).norm())
