"""SLURM environment of this process: rank, job, and requeueing."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment

from halut.errors import HalutError
from halut.training.config.run_config import TrainerConfig

FIRST_PORT = 15000


@dataclass(frozen=True)
class Step:
    """The job step this process was started in by `srun`."""

    rank: int
    local_rank: int
    tasks: int
    nodes: int

    @property
    def tasks_per_node(self) -> int:
        """Tasks on every node."""
        return self.tasks // self.nodes


def step() -> Step | None:
    """The step that srun started this process in, None elsewhere (a batch script is no step)."""
    read = os.environ.get
    if not str(read("SLURM_STEP_ID", "")).isdigit() or "TORCHELASTIC_RUN_ID" in os.environ:
        return None
    return Step(
        rank=int(read("SLURM_PROCID", 0)),
        local_rank=int(read("SLURM_LOCALID", 0)),
        tasks=int(read("SLURM_STEP_NUM_TASKS", 1)),
        nodes=int(read("SLURM_STEP_NUM_NODES", 1)),
    )


def job() -> str | None:
    """The job's name for scontrol (an array's element: ARRAY_INDEX), the same after a requeue."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often the job was put back into the queue."""
    count = os.environ.get("SLURM_RESTART_COUNT", "0")
    return int(count) if count.isdecimal() else 0


def export_torchrun_env() -> None:
    """Give a process that srun started beside others the variables torchrun would have set."""
    job_step = step()
    if job_step is None or job_step.tasks == 1 or "RANK" in os.environ:
        return
    nodes = os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1")
    first = SLURMEnvironment.resolve_root_node_address(nodes)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1" if job_step.nodes == 1 else first)
    number = int(os.environ["SLURM_JOB_ID"]) + 100 * int(os.environ["SLURM_STEP_ID"])
    os.environ.setdefault("MASTER_PORT", str(FIRST_PORT + number % 10_000))
    os.environ["RANK"] = str(job_step.rank)
    os.environ["LOCAL_RANK"] = str(job_step.local_rank)
    os.environ["WORLD_SIZE"] = str(job_step.tasks)


def check_step(settings: TrainerConfig, command: str) -> None:
    """Raise HalutError, with the command to use, if the step's tasks are not trainer.devices.

    `command` is what the user ran, to be told back.
    """
    job_step = step()
    devices, nodes = settings.devices, settings.num_nodes
    srun_command = (
        f"srun --nodes={nodes} --ntasks-per-node={devices} --kill-on-bad-exit=1 {command}"
    )
    if job_step is None:
        if settings.ranks == "srun":
            raise HalutError(
                f"trainer.ranks=srun, but srun did not start this process: {srun_command}"
            )
        return
    if job_step.tasks == 1 and settings.ranks == "auto" and nodes == 1:
        return  # a shell inside an allocation: what it starts are processes of its own
    if (job_step.tasks_per_node, job_step.nodes) != (
        devices,
        nodes,
    ) or job_step.tasks % job_step.nodes:
        raise HalutError(
            f"srun started {job_step.tasks} tasks on {job_step.nodes} nodes, but "
            f"trainer.devices={devices} and trainer.num_nodes={nodes} need {devices} on each "
            f"of {nodes}: {srun_command}"
        )
    if job_step.tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise HalutError(f"srun was not told how many tasks run on each node: {srun_command}")
    visible = torch.cuda.device_count()
    if settings.accelerator != "cpu" and 0 < visible < devices:
        raise HalutError(
            f"trainer.devices={devices}, but a task sees {visible} GPUs: every task must see "
            f"all of its node, as --gpus-per-node={devices} gives them (not --gpus-per-task)"
        )


def environment() -> SLURMEnvironment | None:
    """Lightning's view of the step, if srun started this process.

    It never requeues: this project's own signal handler does, whatever launched the job.
    """
    return SLURMEnvironment(auto_requeue=False) if step() is not None else None


def why_not_requeue(limit: int) -> str | None:
    """What forbids to put the job back into the queue, the same on every rank, or None."""
    name = job()
    if name is None:
        return "this is no SLURM job"
    if restarts() >= limit:
        return f"job {name} was requeued {restarts()} times already (trainer.max_requeues={limit})"
    return None


def requeue() -> str | None:
    """Put the job back into the queue, which ends its processes; None, or why it was not done."""
    command = ["scontrol", "requeue", str(job())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command)}: {error}"
    return None if done.returncode == 0 else f"{' '.join(command)}: {done.stderr.strip()}"
