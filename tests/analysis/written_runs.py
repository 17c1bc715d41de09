"""Run folders as a run leaves them, less the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = {"halut.width": "width in bits", "schedule.epochs=0": "post-training"}


def configuration(**values: Any) -> dict[str, Any]:
    """A nested configuration; dots of a key are written as __."""
    config: dict[str, Any] = {"sweep": {"x": None, "y": "test_accuracy", "words": WORDS}}
    for key, value in values.items():
        node = config
        *groups, last = key.split("__")
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return config


def write_run(path: Path, test: float | None, exact: float = 97.0, **values: Any) -> None:
    """A run folder with that test accuracy; None: it has not finished."""
    path.mkdir(parents=True)
    config = {**configuration(**values), "run_dir": str(path)}
    (path / "config.json").write_text(json.dumps(config))
    (path / "state.json").write_text(json.dumps({"next": "stage_00: train"}))
    (path / "base").mkdir()
    if test is not None:
        (path / "report.json").write_text(json.dumps(report(test, exact)))


def report(test: float, exact: float) -> dict[str, Any]:
    """What the gathering reads of a report."""
    return {
        "final": {"test_accuracy": test, "val_accuracy": test - 1},
        "base": {"test_accuracy": exact},
        "baseline": {"test_accuracy": None},
        "stages": [{"val_accuracy_after_swap": 50.0}],
        "sites": [{"normalized_mse": 0.1}, {"normalized_mse": 0.3}],
        "cost": {
            "replaced": {"weight_bytes": 100, "table_bytes": 20},
            "bits": {"weight_bits": 4.0, "activation_bits": 8.0, "bops": 1e6},
        },
        "seconds": 2.0,
        "model": {"name": "resnet8"},
        "data": {"name": "digits"},
    }


def write_failure(path: Path, error: str, **values: Any) -> None:
    """A run that was refused before its folder was begun."""
    path.mkdir(parents=True)
    content = {"error": error, "traceback": "", "config": configuration(**values)}
    (path / "error.json").write_text(json.dumps(content))
