"""`python train.py ...` and `halut train ...`: compose, run, and say what failed."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from typing import Any, cast

import hydra
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from halut.errors import HalutError
from halut.training import distributed
from halut.training.config import TrainConfig, check
from halut.training.progress import complain, set_up_logging
from halut.training.run import run
from halut.training.store import conf_dir, register

register()


def typed(config: DictConfig) -> tuple[TrainConfig, dict[str, Any], str]:
    """The configuration as dataclasses, as plain data and as YAML; raises HalutError if invalid."""
    refuse_added_keys(config)
    try:
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, enum_to_str=True))
        settings = cast(TrainConfig, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise HalutError(str(error)) from error
    return settings, plain, OmegaConf.to_yaml(config, resolve=True)


def refuse_added_keys(node: DictConfig, path: str = "") -> None:
    """Raise HalutError for a key that `+` has added to a group which has no such option."""
    kind = OmegaConf.get_type(node)
    known = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None
    for key in map(str, node):
        if known is not None and key not in known:
            raise HalutError(f"unknown option {path}{key}; choose from: {', '.join(known)}")
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            refuse_added_keys(node[key], f"{path}{key}.")


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="train")
def main(config: DictConfig) -> None:
    """One run; exits with 1 and one message if it cannot be done."""
    set_up_logging()
    show = bool(config.debug.traceback)
    try:
        settings, plain, yaml = typed(config)
        check(settings)
        outside = distributed.started_from_outside()
        if settings.trainer.devices > 1 and settings.trainer.num_nodes == 1 and not outside:
            sys.exit(distributed.launch(settings.trainer.devices, sys.argv[1:]))
        distributed.start(settings.trainer.accelerator)
        run(settings, plain, yaml)
    except HalutError as error:
        if show:
            traceback.print_exc()
        complain(str(error))
        sys.exit(1)
    except SIGTERMException:
        complain("terminated; the same command with the same run_dir continues")
        sys.exit(143)
    except KeyboardInterrupt:
        complain("interrupted; the same command with the same run_dir continues")
        sys.exit(130)
    finally:
        distributed.stop()
