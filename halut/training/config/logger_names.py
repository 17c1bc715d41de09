"""Loggers by name, and what they need: our own, and Lightning's."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from halut.errors import HalutError
from halut.option import unknown

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


def logger_classes() -> dict[str, str]:
    """Lightning's classes by short name (tensorboard: TensorBoardLogger), but for those of OWN."""
    from lightning.pytorch import loggers

    names = {each.lower().removesuffix("logger"): each for each in loggers.__all__}
    return {short: name for short, name in names.items() if short and short not in OWN}


def names_of(name: str | Sequence[str]) -> list[str]:
    """The loggers that logger.name asks for beside metrics.csv; class names become short ones.

    Raises HalutError for one that does not exist.
    """
    names = [name] if isinstance(name, str) or not isinstance(name, Sequence) else list(name)
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
        parameters = inspect.signature(logger_class(each).__init__).parameters
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


def logger_class(name: str) -> Any:
    """Lightning's class behind a short name."""
    from lightning.pytorch import loggers

    return getattr(loggers, logger_classes()[name])
