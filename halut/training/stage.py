"""One stage: capture, learn, swap, recalibrate, train, measure; each step can be resumed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from halut import surgery
from halut.capture import capture, expected_memory
from halut.plan import Entry, Plan
from halut.schedule import Stage
from halut.training.config import Rates, TrainConfig
from halut.training.distributed import check_equal, device_of, is_main, on_main, share_state
from halut.training.fit import evaluate, fit
from halut.training.losses import block_names
from halut.training.metrics import RunLogger
from halut.training.module import Recipe
from halut.training.progress import bar, log
from halut.training.recalibrate import recalibrate
from halut.training.run_folder import RunFolder, load_network, save_network


@dataclass
class Context:
    """What every stage of a run works with. `exact` is the base network, frozen."""

    config: TrainConfig
    folder: RunFolder
    data: Any
    plan: Plan
    exact: nn.Module
    teacher: nn.Module | None
    logger: RunLogger


def stage_recipe(config: TrainConfig, stage: Stage, seed: int, blocks: Sequence[str]) -> Recipe:
    """The optimiser's rates with the schedule's and the stage's own laid over them."""
    optim = config.optim
    rates = {**_rates(optim.lr), **config.schedule.lr, **stage.lr}
    return Recipe(
        optim.name,
        rates,
        _rates(optim.weight_decay),
        loss=config.loss,
        momentum=optim.momentum,
        warmup=optim.warmup,
        schedule=optim.schedule,
        floor=optim.floor,
        freeze=[*config.schedule.freeze, *stage.freeze],
        seed=seed,
        feature_blocks=config.loss.feature_blocks or list(blocks),
    )


def train(context: Context, network: nn.Module, path: Path, epochs: int, recipe: Recipe) -> int:
    """One fit as all stages and the baseline have it; returns the steps taken.

    An epoch is cut to schedule.train_batches where that is given.
    """
    config = context.config
    batches, settings = config.schedule.train_batches, config.trainer
    return fit(
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
    done = on_main(lambda: folder.read(path.relative_to(folder.path) / "stage.json"))
    if done is not None:
        surgery.apply(network, context.plan, index + 1)
        load_network(path / "weights.safetensors", network)
        context.logger.offset += done["steps"]
        return dict(done)
    begun = time.monotonic()
    name = f"stage_{index:02d}"
    context.logger.stage, context.data.stream = name, index + 1
    swapped = _swapped(context, network, index, stage, before, begun)
    _note(folder, f"{name}: train")
    recipe = stage_recipe(config, stage, config.seed * 1009 + index + 1, _blocks(context))
    steps = train(context, network, path, stage.epochs, recipe)
    after = swapped["val_accuracy_after_swap"]
    if stage.epochs:
        after = evaluate(network, context.data, "val", config.trainer)
    result = {
        **swapped,
        "val_accuracy_after_training": after,
        "epochs": stage.epochs,
        "steps": steps,
        "seconds": swapped["seconds"] + time.monotonic() - begun,
        "digests": check_equal(network),
    }
    context.logger.offset += steps
    context.logger.log_metrics({"stage/val_accuracy_after_training": after}, 0)
    if is_main():
        save_network(path / "weights.safetensors", network)
        folder.write(path.relative_to(folder.path) / "stage.json", result)
    return result


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
    note = on_main(lambda: folder.read(path.relative_to(folder.path) / "swap.json"))
    if note is not None:
        surgery.apply(network, context.plan, index + 1)
        load_network(path / "swapped.safetensors", network)
        return dict(note)
    name = f"stage_{index:02d}"
    _note(folder, f"{name}: capture, learn, swap")
    log.info("%s: replacing %s", name, ", ".join(stage.sites))
    if is_main():
        learn(context, network, context.plan.stage(index), stage.calibrate)
        samples = context.config.recalibrate * context.data.config.batch_size
        if samples:
            batches = context.data.calibration_batches(samples, seed=context.config.seed + index)
            recalibrate(network, batches)
    else:
        surgery.apply(network, context.plan, index + 1)
    share_state(network)
    accuracy = evaluate(network, context.data, "val", context.config.trainer)
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
    }
    if is_main():
        save_network(path / "swapped.safetensors", network)
        spent = time.monotonic() - begun  # counted by the process that resumes
        folder.write(path.relative_to(folder.path) / "swap.json", {**result, "seconds": spent})
    return {**result, "seconds": 0.0}


def learn(context: Context, network: nn.Module, entries: Sequence[Entry], calibrate: str) -> None:
    """Swap the entries' sites for operators learned from captured rows.

    "replaced": site after site on the network as it then stands; "original": all of them from the
    exact network's activations.
    """
    device = device_of(context.config.trainer.accelerator)
    network.to(device)
    if calibrate == "original":
        context.exact.to(device)
        for group in _within_memory(entries, context.config):
            rows = captured(context, context.exact, group)
            for entry in group:
                _learn_site(context, network, entry, rows.pop(entry.site.name))
        return
    for entry in entries:
        rows = captured(context, network, [entry])
        _learn_site(context, network, entry, rows[entry.site.name])


def _within_memory(entries: Sequence[Entry], config: TrainConfig) -> list[list[Entry]]:
    """Neighbours whose full reservoirs fit into memory together: one pass over the data each."""
    bound = config.capture.memory_gib * 2**30
    groups: list[list[Entry]] = []
    used = 0
    for entry in entries:
        size = expected_memory([entry.site], config.capture.rows)
        if not groups or used + size > bound:
            groups.append([])
            used = 0
        groups[-1].append(entry)
        used += size
    return groups


def captured(
    context: Context, network: nn.Module, entries: Sequence[Entry]
) -> dict[str, torch.Tensor]:
    """Calibration rows of the entries' sites."""
    settings = context.config.capture
    batches = context.data.calibration_batches(settings.samples, seed=context.config.seed)
    total = -(-settings.samples // context.data.config.eval_batch_size)
    shown = context.config.trainer.progress
    with bar(f"capture {entries[0].site.name}", total, shown) as progress:
        return capture(
            network,
            [entry.site for entry in entries],
            batches,
            rows=settings.rows,
            memory=int(settings.memory_gib * 2**30),
            seed=context.config.seed,
            progress=progress,
        )


def _learn_site(context: Context, network: nn.Module, entry: Entry, rows: torch.Tensor) -> None:
    layer = surgery.build(network, entry)
    layer.observe(rows)
    codebooks = getattr(getattr(layer, "blocks", None), "total", 1)
    with bar(f"learn {entry.site.name}", codebooks, context.config.trainer.progress) as progress:
        layer.fit(seed=context.config.seed, progress=progress)
    surgery.swap(network, entry, layer)
