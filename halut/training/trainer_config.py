"""Options of the trainer: devices and ranks, precision, when a run saves its place."""

from __future__ import annotations

from dataclasses import dataclass

from halut.errors import HalutError
from halut.training.ranges import between, choice

FSDP_PRECISIONS = ("32-true", "bf16-mixed")


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


def check_trainer(settings: TrainerConfig) -> None:
    """Raise HalutError on values that no schema can refuse."""
    choice("trainer.strategy", settings.strategy, ("auto", "ddp", "fsdp"))
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
    if settings.checkpoint_minutes is not None:
        between("trainer.checkpoint_minutes", settings.checkpoint_minutes, 0)
    if settings.ema is not None:
        between("trainer.ema", settings.ema, 0, 1)
