"""One of Lightning's loggers over all stages of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halut.errors import HalutError, message_of
from halut.training.config.logger_names import logger_class
from halut.training.logging.metrics import numbers_of
from halut.training.run_folder import RunFolder

IDENTITY = {"mlflow": "run_id", "comet": "experiment_key"}
"""The argument by which a resumed run goes on in the same run of the logger."""


def _defaults(name: str, path: Path) -> dict[str, Any]:
    """Where a logger keeps its files: in the run folder, unless its options say otherwise."""
    if name == "tensorboard":
        return {"save_dir": str(path), "name": "tensorboard", "version": ""}
    if name == "mlflow":
        names = {"experiment_name": "halut", "run_name": path.name}
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            return {**names, "tracking_uri": uri}
        return {  # a database, for MLflow 3 refuses folders of text files
            **names,
            "tracking_uri": f"sqlite:///{path.resolve()}/mlflow.db",
            "artifact_location": (path / "mlruns").resolve().as_uri(),
        }
    return {"root_dir": str(path)} if name == "lit" else {}


CHATTY = ("lightning.pytorch.loggers.mlflow", "mlflow.store.db.utils")
"""Python loggers that tell of every experiment and database that is made."""


class LightningLogger:
    """One of Lightning's loggers, given the steps of the whole run; `options` are its arguments.

    The configuration is logged when the run begins. state.json keeps the identity of an MLflow or
    Comet run, and a resumed run goes on in it; figures that it had already are not logged again.
    Raises HalutError if the logger cannot be made, as when its server does not answer.
    """

    def __init__(
        self, name: str, options: Mapping[str, Any], plain: Mapping[str, Any], folder: RunFolder
    ) -> None:
        self.name = name
        self.complete = False
        self.step = 0
        self.written: set[tuple[int, str]] = set()
        known = ((folder.read("state.json", {}) or {}).get("loggers") or {}).get(name)
        arguments = {**_defaults(name, folder.path), **options}
        if known is not None and name in IDENTITY:
            arguments.setdefault(IDENTITY[name], known)
        for chatty in CHATTY:
            logging.getLogger(chatty).setLevel(logging.ERROR)
        folder.path.mkdir(parents=True, exist_ok=True)
        try:
            self.logger = logger_class(name)(**arguments)
            if known is None:
                self.logger.log_hyperparams(dict(plain))
                self.logger.save()
            identity = str(self.logger.version)
        except Exception as error:
            reason = message_of(error)
            raise HalutError(f"logger={name}: {reason}") from error
        if known is None:
            state = folder.read("state.json") or {}
            loggers = {**(state.get("loggers") or {}), name: identity}
            folder.write("state.json", {**state, "loggers": loggers})

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Take figures of one step, and hand them to the disk or the server."""
        self.step = max(self.step, step)
        news = {key: v for key, v in figures.items() if (step, key) not in self.written}
        if news:
            self.logger.log_metrics(news, step)
            self.logger.save()

    def repeats(self, figures: set[tuple[int, str]]) -> None:
        """These (step, key) were logged by an earlier process, and come again."""
        self.written |= figures

    def log_bundle(self, folder: Path, report: Mapping[str, Any]) -> None:
        """Log the numbers of the report, at the last step."""
        self.complete = True
        for part in ("base", "baseline", "ptq", "final", "cost"):
            figures = {key: float(value) for key, value in numbers_of(part, report.get(part))}
            if figures:
                self.logger.log_metrics(figures, self.step)

    def close(self) -> None:
        """Flush and finish, as failed unless the bundle was logged."""
        self.logger.finalize("success" if self.complete else "failed")
