"""What a study is about: a configuration, and where its records come from."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from typing import Any

import hydra
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from halut.errors import HalutError
from halut.training.config.command import command_line
from halut.training.config.hydra_errors import one_line
from halut.training.config.hydra_schemas import conf_dir, register
from halut.training.config.plugin_options import import_plugins
from halut.training.config.renamed import with_new_keys
from halut.training.config.run_config import TrainConfig, check
from halut.training.config.unused_options import check_effect
from halut.training.logging.git import git_revision
from halut.training.main import typed
from halut.training.parallel.distributed import warn

PROGRAM = "python train.py"
"""Whose options they are: what a message tells to ask for help."""


def compose(overrides: Sequence[str]) -> TrainConfig:
    """The configuration of these overrides, composed and checked as train.py does.

    Raises HalutError, one line, for what cannot be composed, is out of range or has no effect.

    >>> compose(["model=resnet8", "halut.K=8"]).halut.K
    8
    """
    for each in overrides:
        if "=" not in each and not each.startswith("~"):
            raise HalutError(f"{each}: not an option KEY=VALUE")
    arguments, warnings = import_plugins(with_new_keys(overrides), True)
    for warning in warnings:
        warn(warning)
    register()
    hydra_config, session = HydraConfig.instance(), GlobalHydra.instance()
    before = hydra_config.cfg, session.hydra
    session.clear()
    try:
        with initialize_config_dir(conf_dir(), job_name="train", version_base="1.3"):
            config = hydra.compose("train", arguments, return_hydra_config=True)
            hydra_config.set_config(config)
            OmegaConf.set_struct(config, False)
            config.pop("hydra")
            settings = typed(config)
            check(settings)
            check_effect(settings)
            return settings
    except (HydraException, OmegaConfBaseException) as error:
        raise HalutError(one_line(error, TrainConfig, PROGRAM)) from error
    finally:
        hydra_config.cfg, session.hydra = before


def context(seconds: float | None = None, run: str | None = None) -> dict[str, Any]:
    """Where a record comes from: command, commit, versions, machine, time."""
    return {
        "command": command_line(),
        "commit": git_revision(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": f"{platform.node()}, {platform.machine()}, {torch.get_num_threads()} threads",
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
        "seconds": seconds,
        "run": run,
    }
