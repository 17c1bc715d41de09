"""`hydra/launcher=slurm`: every value of a multirun as a SLURM job, by submitit.

What a job must have (a task per device, a way to end in time, a way back into the queue) is derived
here from the trainer's settings, or refused where the command says otherwise.
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from halut.errors import HalutError, report_error
from halut.training.config.launcher_config import LAUNCHER
from halut.training.config.overrides import sweep_keys, sweep_size
from halut.training.parallel.distributed import print_error, started_from_outside

TRAINER_KEYS = ("trainer", "trainer.devices", "trainer.num_nodes", "trainer.accelerator")


class Launching(Callback):
    """Checks a multirun's processes before anything is launched."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            by_slurm = config.hydra.launcher.get("_target_") == LAUNCHER
            (_prepare if by_slurm else _refuse_ranks)(config)
        except Exception as error:  # Hydra would turn it into a warning
            report_error(error, print_error)
            sys.exit(1)


def _refuse_ranks(config: DictConfig) -> None:
    """A launcher that runs values in this process can give them no processes of their own."""
    ranks = config.trainer.devices * config.trainer.num_nodes
    if ranks > 1 and not started_from_outside():
        arguments = shlex.join(sys.argv[1:])
        raise HalutError(
            f"a multirun runs its values in this one process, not in {ranks}. As jobs of {ranks} "
            f"tasks each: python train.py hydra/launcher=slurm {arguments}; one after the other "
            f"here: torchrun --nproc-per-node={config.trainer.devices} train.py {arguments}"
        )


def _prepare(config: DictConfig) -> None:
    settings = config.hydra.launcher
    if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        raise HalutError("hydra/launcher=slurm needs submitit: pip install 'halut[slurm]'")
    from halut.training.cluster.submitit_launcher import Launcher

    Plugins.instance().class_name_to_class[LAUNCHER] = Launcher  # Hydra knows plugins by this name
    for key in sweep_keys(config):
        if key in TRAINER_KEYS:
            raise HalutError(
                f"all jobs of a multirun have the same tasks: give each {key} a command of its own"
            )
    requests = resources(config.trainer, settings)
    with open_dict(settings):
        settings.update(requests)
        dry = settings.pop("dry_run")
        # A rank that dies must end its job, not leave the others waiting.
        settings.setup = [*(settings.setup or []), "export SLURM_KILL_BAD_EXIT=1"]
        settings.additional_parameters = {"requeue": True, **settings.additional_parameters}
        for key in [key for key in settings if settings[key] is None]:
            del settings[key]
    if dry:
        print(job_script(settings, sweep_size(config)))
        sys.exit(0)


def resources(trainer: Any, options: Mapping[str, Any]) -> dict[str, int | None]:
    """nodes, tasks_per_node and gpus_per_node of a trainer; HalutError where `options` differs."""
    cpu = trainer.accelerator == "cpu"
    derived = {
        "nodes": ("trainer.num_nodes", trainer.num_nodes),
        "tasks_per_node": ("trainer.devices", trainer.devices),
        "gpus_per_node": ("trainer.devices", None if cpu else trainer.devices),
    }
    for name, (source, value) in derived.items():
        if options[name] not in (None, value):
            raise HalutError(
                f"hydra.launcher.{name}={options[name]}, but {source}="
                f"{getattr(trainer, source.split('.')[1])} and trainer.accelerator="
                f"{trainer.accelerator} need {name}={value}: leave it out"
            )
    return {name: value for name, (_, value) in derived.items()}


def job_script(settings: DictConfig, values: int) -> str:
    """The text that submitit would give to sbatch for so many values."""
    from submitit.slurm.slurm import _make_sbatch_string

    options = cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))
    folder = Path(options.pop("submitit_folder"))
    options.pop("_target_")
    renamed = {"name": "job_name", "timeout_min": "time", "tasks_per_node": "ntasks_per_node"}
    options = {renamed.get(key, key): value for key, value in options.items()}
    if "mem_gb" in options:
        options["mem"] = f"{options.pop('mem_gb')}GB"
    if values > 1:
        options["map_count"] = values
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {folder}"
    return _make_sbatch_string(command, folder, **options)
