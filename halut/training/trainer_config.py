"""Options of the trainer: devices and ranks, precision, when a run saves its place."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch

from halut.errors import HalutError
from halut.training.ranges import between, choice

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""What layers train in: Lightning's "true" half and double convert the weights for good, and with
them the tables, and the images that calibrate them stay float32."""
ALIASES = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
FSDP_PRECISIONS = ("32-true", "bf16-mixed")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


@dataclass
class TrainerConfig:
    """Lightning's Trainer, and what we add to it.

    `strategy`: auto (ddp, if there are ranks), ddp, or fsdp, which trains in shards.
    A checkpoint is written every `checkpoint_every` steps and every `checkpoint_minutes`. `ranks`:
    who starts the processes: auto (srun or torchrun, if they did, else the command itself), or
    srun and nothing else. In a SLURM job an announced end requeues it, `max_requeues` times.
    `deterministic`: kernels whose sums have a fixed order, so that a run repeats bit for bit on the
    same machine; some are slower, and torch refuses operations that have none.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    accumulate: int = 1
    clip: float | None = 1.0
    deterministic: bool = False
    ema: float | None = None
    channels_last: bool = True
    threads: int | None = None
    checkpoint_every: int = 200
    checkpoint_minutes: float | None = 10.0
    ranks: str = "auto"
    requeue: bool = True
    max_requeues: int = 100
    limit_train_batches: int | None = None
    limit_val_batches: int | None = None
    limit_test_batches: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        self.precision = ALIASES.get(self.precision, self.precision)


def check_trainer(settings: TrainerConfig) -> None:
    """Raise HalutError on values that no schema can refuse."""
    choice("trainer.strategy", settings.strategy, ("auto", "ddp", "fsdp"))
    choice("trainer.precision", settings.precision, PRECISIONS)
    check_accelerator(settings)
    if settings.strategy == "fsdp" and settings.precision not in FSDP_PRECISIONS:
        raise HalutError(
            f"trainer.strategy=fsdp trains in one of {', '.join(FSDP_PRECISIONS)}, got trainer."
            f"precision={settings.precision}: shards are float32, and no rank sees all gradients, "
            "as float16's loss scale must. Use bf16-mixed, or trainer.strategy=ddp"
        )
    choice("trainer.ranks", settings.ranks, ("auto", "srun"))
    between("trainer.devices", settings.devices, 1)
    between("trainer.num_nodes", settings.num_nodes, 1)
    between("trainer.accumulate", settings.accumulate, 1)
    between("trainer.checkpoint_every", settings.checkpoint_every, 1)
    between("trainer.max_requeues", settings.max_requeues, 0)
    for name, low, high in (
        ("checkpoint_minutes", 0, inf),
        ("ema", 0, 1),
        ("clip", 0, inf),
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
    found = torch.cuda.device_count() if settings.accelerator != "cpu" else 0
    if 0 < found < settings.devices:
        raise HalutError(f"trainer.devices={settings.devices}, but torch finds {found} GPUs here")
