"""Trainer construction, fit and evaluation of one stage."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy
from torch import nn

from halut.errors import HalutError
from halut.option import unknown
from halut.training.cluster import slurm
from halut.training.cluster.interruption import signal_handler
from halut.training.config.run_config import LossConfig, TrainerConfig
from halut.training.lightning.averaging import AveragedWeights
from halut.training.lightning.callbacks import AtomicCheckpointIO, BestWeights, LayerFigures
from halut.training.lightning.last_checkpoint import LastCheckpoint
from halut.training.lightning.module import Recipe, StageModule
from halut.training.lightning.sharded_fit import ShardedModule, ShardedStrategy
from halut.training.logging.metrics import RunLogger
from halut.training.logging.progress import batches_shown, log
from halut.training.logging.run_progress import TrainerProgress
from halut.training.parallel.distributed import is_main, share_state, world_size
from halut.training.run_folder import load_network


def make_trainer(
    settings: TrainerConfig,
    logger: RunLogger | None,
    callbacks: list[Callback],
    strategy: Strategy | str | None = None,
    **options: Any,
) -> L.Trainer:
    """A Trainer of these settings; the ranks, if any, were started from outside.

    `strategy` None: whole networks, as ddp has them.
    """
    if strategy is None:
        strategy = "ddp" if settings.strategy == "ddp" or world_size() > 1 else "auto"
    filter_warnings()
    cluster = slurm.environment()
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=strategy,
        precision=settings.precision,  # type: ignore[arg-type]
        deterministic=settings.deterministic or None,
        limit_train_batches=settings.limit_train_batches,
        limit_val_batches=settings.limit_val_batches,
        limit_test_batches=settings.limit_test_batches,
        logger=logger or False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), *([cluster] if cluster else [])],
        use_distributed_sampler=False,
        enable_progress_bar=False,  # of one fit: batches_shown tells of the whole run
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,  # its tensors count no changes: layers could not share codes
        **options,
    )


def filter_warnings() -> None:
    """Keep Lightning to its warnings, and drop those about what is done on purpose here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*logging interval.*",
        ".*exists and is not empty.*",
        ".*sync_dist=True.*",  # torchmetrics has reduced the accuracy over the ranks already
        ".*isinstance.treespec, LeafSpec.*",
        "The `srun` command is available.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def fit(
    network: nn.Module,
    data: Any,
    folder: Path,
    epochs: int,
    recipe: Recipe,
    settings: TrainerConfig,
    logger: RunLogger,
    *,
    teacher: nn.Module | None = None,
    select: str = "best",
    log_every: int = 20,
) -> int:
    """Train `network` in place for `epochs`, resuming from folder/last.ckpt if it is there.

    Ends with the weights of the best validation epoch (select="best") or of the last one. Returns
    the number of optimizer steps.
    """
    if epochs == 0:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    best = BestWeights(folder / "best.safetensors")
    last = folder / "last.ckpt"
    checkpoint = LastCheckpoint(last, settings.checkpoint_every, settings.checkpoint_minutes)
    callbacks: list[Callback] = [best, LayerFigures(logger)]
    if settings.ema is not None:
        callbacks.append(AveragedWeights(settings.ema))
    callbacks.append(checkpoint)
    progress = batches_shown(settings.enable_progress_bar)
    sharded = settings.strategy == "fsdp" and world_size() > 1
    trainer = make_trainer(
        settings,
        logger,
        callbacks,
        strategy=ShardedStrategy() if sharded else None,
        max_epochs=epochs,
        accumulate_grad_batches=settings.accumulate_grad_batches,
        gradient_clip_val=settings.gradient_clip_val,
        log_every_n_steps=log_every,
        default_root_dir=folder,
    )
    recipe = replace(recipe, steps=epochs * steps_per_epoch(data, settings), epochs=epochs)
    kind = ShardedModule if sharded else StageModule
    module = kind(network.train(), data.num_classes, recipe, teacher)
    step = 0
    resumes = last.exists()
    with checkpoint.resuming() if resumes else nullcontext():
        if resumes:
            step = int(AtomicCheckpointIO().load_checkpoint(last)["global_step"])
            log.info("%s: continuing after step %d", folder.name, step)
        logger.rewind(step)
        with progress as show, signal_handler.during_fit():
            reporter = TrainerProgress(show)
            trainer.callbacks.append(reporter)  # type: ignore[attr-defined]
            with interruptible(trainer):
                trainer.fit(module, datamodule=data, ckpt_path=last if resumes else None)
    if select == "best" and best.path.exists() and is_main():
        load_network(best.path, network)
    share_state(network)
    return int(trainer.global_step)


@contextmanager
def interruptible(trainer: L.Trainer) -> Iterator[None]:
    """An interrupt in here is a KeyboardInterrupt; Lightning ends the process with exit code 1."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from here on
        raise KeyboardInterrupt from None
    if trainer.interrupted:
        raise KeyboardInterrupt


def steps_per_epoch(data: Any, settings: TrainerConfig) -> int:
    """Optimizer steps of one epoch."""
    batches = len(data.train_dataloader())
    if settings.limit_train_batches is not None:
        batches = min(batches, settings.limit_train_batches)
    return -(-batches // settings.accumulate_grad_batches)


def split_samples(data: Any, split: str, settings: TrainerConfig) -> int:
    """On how many samples of "val" or "test", over all ranks, `split_accuracy` measures."""
    samples, ranks = len(data.splits[split]), world_size()
    limit = {"val": settings.limit_val_batches, "test": settings.limit_test_batches}[split]
    if limit is None:
        return samples
    most = limit * data.config.eval_batch_size
    return sum(min(most, len(range(rank, samples, ranks))) for rank in range(ranks))


def split_accuracy(network: nn.Module, data: Any, split: str, settings: TrainerConfig) -> float:
    """Accuracy in percent on "val" or "test", every sample counted once over all ranks."""
    recipe = Recipe("adamw", {}, {}, loss=LossConfig())
    module = StageModule(network, data.num_classes, recipe)
    if split not in ("val", "test"):
        raise HalutError(unknown("split", split, ("val", "test")))
    with batches_shown(settings.enable_progress_bar) as show, torch.no_grad():
        trainer = make_trainer(settings, None, [TrainerProgress(show)])
        run = trainer.validate if split == "val" else trainer.test
        with interruptible(trainer):
            results = run(module, datamodule=data, verbose=False)
    return float(results[0][f"{split}/accuracy"])
