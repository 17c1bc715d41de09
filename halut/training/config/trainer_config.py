"""Trainer options: devices and ranks, precision, checkpoint intervals."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import inf
from typing import Any

import torch

from halut.errors import HalutError
from halut.option import (
    Needs,
    between,
    choice,
    every,
    of_training_runs,
    option,
    where,
    while_training,
)
from halut.training.config.needs import while_stages_train

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""What layers train in: Lightning's "true" half and double convert the weights for good, and with
them the tables, and the images that calibrate them stay float32."""
ALIASES = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
FSDP_PRECISIONS = ("32-true", "bf16-mixed")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


def sharded(own: Any, run: Any) -> str | None:
    """fsdp, which shards over ranks."""
    ranks = own.devices * own.num_nodes > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1
    ranks = ranks or own.ranks == "srun"
    alone = own.strategy == "fsdp" and not ranks
    return "one process has nothing to shard: it needs trainer.devices above 1" if alone else None


def of_split(name: str) -> Needs:
    """What is read where that split is: in training runs both are."""

    def why(own: Any, run: Any) -> str | None:
        if run.trains or run.split == name:
            return None
        return f"the split is {run.split}; it needs split={name}"

    return why


@dataclass
class TrainerConfig:
    """Lightning's Trainer, and what is added to it."""

    accelerator: str = option("auto", "auto, cpu, gpu, or another of Lightning's")
    devices: int = option(1, "devices, one process on each")
    num_nodes: int = option(1, "machines, each with so many devices")
    strategy: str = option(
        "auto",
        "auto: ddp if there are ranks; fsdp: train in shards",
        choices=("auto", "ddp", "fsdp"),
        needs=every(of_training_runs, sharded),
    )
    precision: str = option("32-true", "precision of forward and backward, in Lightning's words")
    accumulate_grad_batches: int = option(1, "batches of an optimizer step", needs=while_training)
    gradient_clip_val: float | None = option(
        1.0, "norm gradients are clipped to", needs=while_training
    )
    deterministic: bool = option(
        False, "sums in a fixed order, so that a run repeats bit for bit on one machine"
    )
    ema: float | None = option(
        None, "decay of averaged weights in the stages; null: none", needs=while_stages_train
    )
    channels_last: bool = option(True, "convolutions in torch's channels_last layout")
    threads: int | None = option(None, "CPU threads; null: torch's choice")
    checkpoint_every: int = option(200, "steps between checkpoints", needs=while_training)
    checkpoint_minutes: float | None = option(
        10.0, "minutes between checkpoints; null: no such", needs=while_training
    )
    ranks: str = option(
        "auto",
        "who starts processes: auto (srun, torchrun, else the command itself) or srun alone",
        choices=("auto", "srun"),
        needs=of_training_runs,
    )
    requeue: bool = option(
        True, "a SLURM job whose end is announced goes back to the queue", needs=of_training_runs
    )
    max_requeues: int = option(
        100,
        "how often at most",
        needs=every(
            of_training_runs, where(lambda own: own.requeue, "it needs trainer.requeue=true")
        ),
    )
    limit_train_batches: int | None = option(
        None, "training batches of an epoch; null: all", needs=while_training
    )
    limit_val_batches: int | None = option(
        None, "validation batches; null: all", needs=of_split("val")
    )
    limit_test_batches: int | None = option(None, "test batches; null: all", needs=of_split("test"))
    enable_progress_bar: bool = option(True, "show how far the run is")

    def __post_init__(self) -> None:
        self.precision = ALIASES.get(self.precision, self.precision)


def check_trainer(settings: TrainerConfig) -> None:
    """Raise HalutError on values that no schema can refuse."""
    choice("trainer.precision", settings.precision, PRECISIONS)
    check_accelerator(settings)
    if settings.strategy == "fsdp" and settings.precision not in FSDP_PRECISIONS:
        raise HalutError(
            f"trainer.strategy=fsdp trains in one of {', '.join(FSDP_PRECISIONS)}, got trainer."
            f"precision={settings.precision}: shards are float32, and no rank sees all gradients, "
            "as float16's loss scale must. Use bf16-mixed, or trainer.strategy=ddp"
        )
    between("trainer.devices", settings.devices, 1)
    between("trainer.num_nodes", settings.num_nodes, 1)
    between("trainer.accumulate_grad_batches", settings.accumulate_grad_batches, 1)
    between("trainer.checkpoint_every", settings.checkpoint_every, 1)
    between("trainer.max_requeues", settings.max_requeues, 0)
    for name, low, high in (
        ("checkpoint_minutes", 0, inf),
        ("ema", 0, 1),
        ("gradient_clip_val", 0, inf),
        ("threads", 1, inf),
        ("limit_train_batches", 1, inf),
        ("limit_val_batches", 1, inf),
        ("limit_test_batches", 1, inf),
    ):
        if (value := getattr(settings, name)) is not None:
            between(f"trainer.{name}", value, low, high)


def check_accelerator(settings: TrainerConfig) -> None:
    """Raise HalutError for devices that torch does not find here, or that lack the precision."""
    name = settings.accelerator
    choice("trainer.accelerator", name, ACCELERATORS)
    cuda = torch.cuda.is_available()
    mps = torch.backends.mps.is_available()
    if not {"gpu": cuda or mps, "cuda": cuda, "mps": mps}.get(name, True):
        raise HalutError(f"trainer.accelerator={name}: torch finds none here; use cpu, or auto")
    if settings.precision == "16-mixed" and (name == "cpu" or not (cuda or name == "mps")):
        raise HalutError(
            "trainer.precision=16-mixed needs a GPU: a CPU trains in one of 32-true, bf16-mixed"
        )


def check_devices(settings: TrainerConfig) -> None:
    """Raise HalutError if this machine has fewer GPUs than the ranks that are to be started."""
    available = torch.cuda.device_count() if settings.accelerator != "cpu" else 0
    if 0 < available < settings.devices:
        raise HalutError(
            f"trainer.devices={settings.devices}, but torch finds {available} GPUs here"
        )
