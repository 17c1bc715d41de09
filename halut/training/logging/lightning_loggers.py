"""Lightning's loggers by name: TensorBoard, MLflow, Comet, ... over all stages of a run."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halut.errors import HalutError
from halut.option import unknown
from halut.training.logging.metrics import numbers_of
from halut.training.run_folder import RunFolder

OWN = ("csv", "wandb", "wandb_offline")
"""Loggers of our own: metrics.csv, which every run has, and one W&B run over all stages."""
PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "mlflow": ("mlflow",),
    "comet": ("comet_ml",),
    "lit": ("litlogger",),
}
"""What a logger needs: one of these."""
EXTRAS = ("tensorboard", "mlflow")
"""Loggers that have an extra of the same name."""
IDENTITY = {"mlflow": "run_id", "comet": "experiment_key"}
"""The argument by which a resumed run goes on in the same run of the logger."""


def logger_classes() -> dict[str, str]:
    """Lightning's classes by short name (tensorboard: TensorBoardLogger), but for those of OWN."""
    from lightning.pytorch import loggers

    names = {each.lower().removesuffix("logger"): each for each in loggers.__all__}
    return {short: name for short, name in names.items() if short and short not in OWN}


def names_of(name: str | Sequence[str]) -> list[str]:
    """The loggers that logger.name asks for beside metrics.csv; class names become short ones.

    Raises HalutError for one that does not exist.
    """
    names = [name] if isinstance(name, str) else list(name)
    known = (*OWN, *logger_classes())
    short = []
    for each in names:
        key = str(each) if each in OWN else str(each).lower().removesuffix("logger")
        if key not in known:
            raise HalutError(unknown("logger.name", str(each), known))
        short.append(key)
    if {"wandb", "wandb_offline"} <= set(short):
        raise HalutError("logger.name: W&B is online or offline; give one of wandb, wandb_offline")
    return [each for each in dict.fromkeys(short) if each != "csv"]


def options_by_name(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """logger.options of each logger: all of them of a single one, else one mapping for each."""
    if len(names) < 2:
        return {name: dict(options) for name in names}
    for name, values in options.items():
        if name not in names or not isinstance(values, Mapping):
            raise HalutError(
                f"logger.options.{name}: of several loggers each has its own: "
                f"logger.options.{names[0]}.KEY=VALUE; choose from: {', '.join(names)}"
            )
    return {name: dict(options.get(name, {})) for name in names}


def check_loggers(name: str | Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise HalutError for loggers that do not exist, lack a package, or have no such option."""
    names = names_of(name)
    for each, values in options_by_name(names, options).items():
        if each in OWN:
            continue
        packages = PACKAGES.get(each, ())
        if packages and not any(map(_installed, packages)):
            package = f"'halut[{each}]'" if each in EXTRAS else packages[0]
            raise HalutError(
                f"logger={each} needs {packages[0]}: pip install {package}; logger=csv works "
                "without it"
            )
        parameters = inspect.signature(_class(each).__init__).parameters
        known = [key for key, p in parameters.items() if key not in ("self", "kwargs")]
        free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        for key in values:
            if key not in known and not free:
                raise HalutError(
                    f"logger={each} has no option {key}; choose from: {', '.join(known)}"
                )


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # sys.modules has None in its place
        return False


def _class(name: str) -> Any:
    from lightning.pytorch import loggers

    return getattr(loggers, logger_classes()[name])


def _defaults(name: str, path: Path) -> dict[str, Any]:
    """Where a logger keeps its files: in the run folder, unless its options say otherwise."""
    if name == "tensorboard":
        return {"save_dir": str(path), "name": "tensorboard", "version": ""}
    if name == "mlflow":
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (path / "mlruns").resolve().as_uri()
        return {"experiment_name": "halut", "run_name": path.name, "tracking_uri": uri}
    return {"root_dir": str(path)} if name == "lit" else {}


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
        logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)
        try:
            self.logger = _class(name)(**arguments)
            if known is None:
                self.logger.log_hyperparams(dict(plain))
                self.logger.save()
            identity = str(self.logger.version)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
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
