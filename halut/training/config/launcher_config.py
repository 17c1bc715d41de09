"""Options of `hydra/launcher=slurm`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LAUNCHER = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
"""The class that Hydra makes of them."""


@dataclass
class SlurmLauncherConfig:
    """What sbatch is asked for; every name is submitit's.

    `tasks_per_node`, `nodes` and `gpus_per_node` follow trainer.devices, trainer.num_nodes and
    trainer.accelerator, and need not be given. `signal_delay_s`: seconds between the signal that
    lets a run save its place and the time limit. `setup`: lines of the job script, such as
    `source venv/bin/activate`. `additional_parameters`: any other option of sbatch. `dry_run`
    prints the job script and submits nothing.
    """

    _target_: str = LAUNCHER
    submitit_folder: str = "${hydra.sweep.dir}/.submitit/%j"
    name: str = "halut"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    comment: str | None = None
    gres: str | None = None
    timeout_min: int = 240
    nodes: int | None = None
    tasks_per_node: int | None = None
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: int | None = None
    mem_per_cpu: str | None = None
    signal_delay_s: int = 120
    array_parallelism: int = 256
    stderr_to_stdout: bool = True
    setup: list[str] | None = None
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False
