"""Entry point of `python train.py ...` and `halut train ...`."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from halut.codecs.factors import extra_types
from halut.errors import SIGPIPE_CODE, HalutError, flush, report_error, silence
from halut.plugins import loading
from halut.training import sweep
from halut.training.cluster import interruption, slurm
from halut.training.config.command import command, command_line
from halut.training.config.hydra_errors import one_line
from halut.training.config.hydra_schemas import register
from halut.training.config.plugin_options import with_absolute_references
from halut.training.config.renamed import with_new_rules
from halut.training.config.run_config import TrainConfig, check, plain_values
from halut.training.config.trainer_config import check_devices
from halut.training.config.unused_options import check_effect
from halut.training.logging.progress import set_up_logging
from halut.training.parallel import distributed
from halut.training.run import run

register()


def typed(config: DictConfig) -> TrainConfig:
    """The configuration as dataclasses; raises HalutError if it is invalid."""
    refuse_added_keys(config)
    with_absolute_references(config)
    try:
        settings = cast(TrainConfig, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise HalutError(one_line(error, TrainConfig, "python train.py")) from error
    settings.policy.rules = with_new_rules(settings.policy.rules)
    return settings


def refuse_added_keys(node: DictConfig, path: str = "") -> None:
    """Raise HalutError for a key that `+` has added to a group which has no such option."""
    kind = OmegaConf.get_type(node)
    names = None
    if dataclasses.is_dataclass(kind):
        names = [*(field.name for field in dataclasses.fields(kind)), *extra_types(kind)]
    for key in map(str, node):
        if names is not None and key not in names:
            raise HalutError(f"unknown option {path}{key}; choose from: {', '.join(names)}")
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            refuse_added_keys(node[key], f"{path}{key}.")


@command("train", TrainConfig)
def main(config: DictConfig) -> Any:
    """One run, or one value of a sweep; exits with 1 and one message if the run cannot be done."""
    code, outcome = attempt(config)
    if code and "SUBMITIT_EXECUTOR" in os.environ:
        raise RuntimeError(f"exit code {code}")  # a result that whoever submitted the job waits for
    if code:
        sys.exit(code)
    return outcome


def attempt(config: DictConfig) -> tuple[int, Any]:
    """Do what the configuration says; returns the exit code, all errors told, and the outcome."""
    try:
        slurm.export_torchrun_env()
        set_up_logging()
        with interruption.signal_handler.during_run():
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                return 0, sweep.attempt(start, config, lambda value: plain_values(typed(value)))
            start(config)
        flush()
        return 0, None
    except BrokenPipeError:
        silence()
        return SIGPIPE_CODE, None
    except interruption.Interrupted as stop:
        settings = config.trainer
        return interruption.requeue_or_exit(stop, settings.requeue, settings.max_requeues), None
    except KeyboardInterrupt:
        distributed.print_error(f"interrupted; {interruption.RESUME_HINT}")
        return 130, None
    except Exception as error:
        gone = distributed.peer_disconnected(error)
        if gone is None:
            report_error(error, distributed.print_error, config.debug.traceback)
        else:
            distributed.print_error(f"another rank is gone ({gone}); {interruption.RESUME_HINT}")
        return 1, None
    finally:
        distributed.stop()


def start(config: DictConfig) -> None:
    """Check the configuration and run it, in as many processes as it asks for."""
    loading.load_entry_points()  # a job of a cluster begins here, and not at the command line
    loading.load(config.plugins)
    settings = typed(config)
    check(settings)
    check_effect(settings)
    slurm.check_step(settings.trainer, command_line())
    outside = distributed.started_from_outside()
    if settings.trainer.devices > 1 and settings.trainer.num_nodes == 1 and not outside:
        check_devices(settings.trainer)
        sys.exit(distributed.launch(settings.trainer.devices, sys.argv[1:]))
    distributed.start(settings.trainer.accelerator)
    run(settings)
