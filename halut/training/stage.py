"""One stage: capture, learn, swap, recalibrate, train, measure; every step resumes."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from halut.errors import HalutError
from halut.io import Kind, write_bytes
from halut.replace import swap
from halut.replace.liveness import prove
from halut.replace.recalibrate import recalibrate, running_norms
from halut.replace.schedule import Stage
from halut.sites.calibration import capture
from halut.sites.plan import Plan
from halut.training.calibrate import Context, learn, relearn_encoders
from halut.training.config.run_config import Rates, TrainConfig
from halut.training.lightning.fit import fit, split_accuracy
from halut.training.lightning.losses import block_names
from halut.training.lightning.module import Recipe
from halut.training.logging.progress import log
from halut.training.logging.run_progress import run
from halut.training.parallel.distributed import (
    broadcast_from_rank0,
    check_equal,
    is_main,
    share_state,
)
from halut.training.run_folder import RunFolder, load_network, save_network
from halut.training.swap_cache import cached_swap

NUMBER = (int, float)
SWAP_FIELDS: dict[str, Kind] = {
    "sites": list,
    "val_accuracy_before": NUMBER,
    "val_accuracy_after_swap": NUMBER,
    "seconds": NUMBER,
}
"""What swap.json holds."""
STAGE_FIELDS: dict[str, Kind] = {
    **SWAP_FIELDS,
    "val_accuracy_after_training": NUMBER,
    "epochs": int,
    "steps": int,
}
"""What stage.json holds, beside the ranks' digests."""

PROVING = 2
"""Samples on which every swapped layer is shown to answer."""


def stage_recipe(config: TrainConfig, stage: Stage, seed: int, blocks: Sequence[str]) -> Recipe:
    """The optimizer's rates and floor with the schedule's and the stage's own laid over them."""
    optim = config.optim
    rates = {**_rates(optim.lr), **config.schedule.lr, **stage.lr}
    floors = (stage.floor, config.schedule.floor, optim.floor)
    return Recipe(
        optim.optimizer,
        rates,
        _rates(optim.weight_decay),
        loss=config.loss,
        momentum=optim.momentum,
        warmup=optim.warmup,
        schedule=optim.schedule,
        floor=next(floor for floor in floors if floor is not None),
        freeze=[*config.schedule.freeze, *stage.freeze],
        seed=seed,
        feature_blocks=config.loss.feature_blocks or list(blocks),
        optimizer_options=dict(optim.optimizer_options),
        schedule_options=dict(optim.schedule_options),
        schedule_interval=optim.schedule_interval,
    )


def train(context: Context, network: nn.Module, path: Path, epochs: int, recipe: Recipe) -> int:
    """One fit as all stages and the baseline have it; returns the steps taken.

    An epoch is cut to schedule.train_batches where that is given. With averaged weights (ema) batch
    norms get the statistics of the averaged network: see `fit_norms`.
    """
    config = context.config
    batches, settings = config.schedule.train_batches, config.trainer
    context.data.batch_size = config.stage_batch_size
    steps = fit(
        network,
        context.data,
        path,
        epochs,
        recipe,
        replace(settings, limit_train_batches=batches) if batches else settings,
        context.logger,
        teacher=context.teacher,
        select=config.schedule.select,
        log_every=config.logger.every,
    )
    if steps and settings.ema is not None:
        fit_norms(context, network, recipe.seed)
    return steps


def fit_norms(context: Context, network: nn.Module, seed: int) -> None:
    """Batch norms' statistics of the network as it is, unless validation accuracy falls by them.

    Those of an averaged network are averages of what the networks on the way had, and lag behind.
    """
    norms = running_norms(network)
    if not context.config.recalibrate or not norms:
        return
    lagging = [copy.deepcopy(norm.state_dict()) for norm in norms]
    before = split_accuracy(network, context.data, "val", context.config.trainer)
    after = _recalibrated(context, network, seed)
    log.info("norms of the averaged network: accuracy %.2f before, %.2f after", before, after)
    if after < before:
        for norm, state in zip(norms, lagging, strict=True):
            norm.load_state_dict(state)


def _rates(rates: Rates) -> dict[str, float]:
    return {name: float(getattr(rates, name)) for name in Rates.__dataclass_fields__}


def run_stage(
    context: Context, network: nn.Module, index: int, stage: Stage, before: float
) -> dict[str, Any]:
    """Bring `network` through stage `index`; returns what stage.json holds.

    A finished stage is loaded; one cut off after its swap continues in the middle of its training.
    """
    folder, config = context.folder, context.config
    path = folder.stage(index)
    done = broadcast_from_rank0(lambda: _note_of(stage, folder, path / "stage.json", STAGE_FIELDS))
    if done is not None:
        swap.apply(network, context.plan, index + 1)
        load_network(path / "weights.safetensors", network)
        context.logger.offset += done["steps"]
        run.skip(f"stage_{index:02d} learn")
        run.skip(f"stage_{index:02d}")
        return dict(done)
    begun = time.monotonic()
    name = f"stage_{index:02d}"
    context.logger.stage, context.data.stream = name, index + 1
    with run.part(f"{name} learn"):
        note = _swapped(context, network, index, stage, before, begun)
    _note(folder, f"{name}: train")
    recipe = stage_recipe(config, stage, config.seed * 1009 + index + 1, _blocks(context))
    after = note["val_accuracy_after_swap"]
    with run.part(name):
        steps = train(context, network, path, stage.epochs, recipe)
        if stage.epochs:
            after = split_accuracy(network, context.data, "val", config.trainer)
    result = {
        **note,
        "val_accuracy_after_training": after,
        "epochs": stage.epochs,
        "steps": steps,
        "seconds": note["seconds"] + time.monotonic() - begun,
        "digests": check_equal(network),
    }
    context.logger.offset += steps
    context.logger.log_metrics({"stage/val_accuracy_after_training": after}, 0)
    if is_main():
        save_network(path / "weights.safetensors", network)
        folder.write(path.relative_to(folder.path) / "stage.json", result)
    return result


def _note_of(stage: Stage, folder: RunFolder, path: Path, fields: dict[str, Kind]) -> Any:
    """What an earlier attempt noted of this stage; HalutError if it is damaged or of another."""
    note = folder.read(path.relative_to(folder.path), fields)
    if note is not None and note["sites"] != list(stage.sites):
        raise HalutError(f"{path}: damaged: its sites are not those of the stage")
    return note


def check_finite(network: nn.Module, plan: Plan, data: Any) -> None:
    """Raise HalutError naming the first site that sees NaN or infinity, before anything trains."""
    batch = next(iter(data.calibration_batches(64, seed=0)))
    capture(network, [entry.site for entry in plan.replaced], [batch], rows=1)


def _blocks(context: Context) -> list[str]:
    return block_names(context.exact, [entry.site.name for entry in context.plan])


def _note(folder: RunFolder, action: str) -> None:
    if is_main():
        folder.next_action(action)


def _swapped(
    context: Context,
    network: nn.Module,
    index: int,
    stage: Stage,
    before: float,
    begun: float,
) -> dict[str, Any]:
    """The network with the stage's sites swapped and learned, and the figures of the swap."""
    folder, path = context.folder, context.folder.stage(index)
    note = broadcast_from_rank0(lambda: _note_of(stage, folder, path / "swap.json", SWAP_FIELDS))
    if note is not None:
        swap.apply(network, context.plan, index + 1)
        load_network(path / "swapped.safetensors", network)
        return dict(note)
    name = f"stage_{index:02d}"
    _note(folder, f"{name}: capture, learn, swap")
    relearned = _relearned(context, network, index)
    cached = cached_swap(context, network, index, stage)
    accuracy = before
    if cached is not None and broadcast_from_rank0(cached.exists):
        swap.apply(network, context.plan, index + 1)
        load_network(cached, network)
        log.info("%s: learned earlier (%s)", name, cached)
        accuracy = split_accuracy(network, context.data, "val", context.config.trainer)
    elif stage.sites or relearned:
        if stage.sites:
            _replace(context, network, index, stage)
        accuracy = _recalibrated(context, network, context.config.seed + index)
    else:
        log.info("%s: training on what is there (%s)", name, run.position or "one stage")
    if stage.sites or relearned:
        log.info("%s: accuracy %.2f before, %.2f after the swap", name, before, accuracy)
    figures = {
        "stage/val_accuracy_before": before,
        "stage/val_accuracy_after_swap": accuracy,
    }
    context.logger.log_metrics(figures, 0)
    result = {
        "sites": stage.sites,
        "val_accuracy_before": before,
        "val_accuracy_after_swap": accuracy,
        **({"relearned": relearned} if context.config.schedule.relearn else {}),
    }
    if is_main():
        save_network(path / "swapped.safetensors", network)
        if cached is not None and not cached.exists():
            write_bytes(cached, (path / "swapped.safetensors").read_bytes())
        seconds = time.monotonic() - begun  # counted by the process that resumes
        folder.write(path.relative_to(folder.path) / "swap.json", {**result, "seconds": seconds})
    return {**result, "seconds": 0.0}


def _relearned(context: Context, network: nn.Module, index: int) -> list[str]:
    """Sites of earlier stages whose encoders were learned again, where schedule.relearn asks."""
    earlier = [e for e in context.plan.replaced if e.stage is not None and e.stage < index]
    if not context.config.schedule.relearn or not earlier:
        return []
    relearned = relearn_encoders(context, network, earlier)
    log.info("stage_%02d: learned again: %s", index, ", ".join(relearned) or "none is better")
    return relearned


def _replace(context: Context, network: nn.Module, index: int, stage: Stage) -> None:
    """Swap the stage's sites for operators that have learned, and show that they answer."""
    log.info(
        "stage_%02d: replacing %s (%s)",
        *(index, ", ".join(stage.sites), run.position or "one stage"),
    )
    learn(context, network, context.plan.stage(index), stage.calibrate)
    batches = context.data.calibration_batches(PROVING, seed=context.config.seed)
    prove(network, next(iter(batches))[0][:PROVING], stage.sites)


def _recalibrated(context: Context, network: nn.Module, seed: int) -> float:
    """Validation accuracy, with batch norms' statistics of the network as it stands now.

    `seed`: of the choice of the samples that they are of.
    """
    config = context.config
    if is_main():
        samples = config.recalibrate * context.data.config.batch_size
        if samples:
            recalibrate(network, context.data.calibration_batches(samples, seed=seed))
    share_state(network)
    return split_accuracy(network, context.data, "val", config.trainer)
