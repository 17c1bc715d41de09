"""Fine-tuning baseline: the exact network trained for as long as all stages together."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from halut.analysis.variants import counted
from halut.io import write_bytes, write_json
from halut.replace.schedule import Stage
from halut.replace.swap import digest
from halut.training.calibrate import Context
from halut.training.exact_network import deciding
from halut.training.lightning.module import Recipe
from halut.training.logging.progress import log
from halut.training.logging.run_progress import run
from halut.training.parallel.distributed import broadcast_from_rank0, is_main, world_size
from halut.training.run_folder import (
    MACHINE_OPTIONS,
    RunFolder,
    config_hash,
    load_network,
    save_network,
)
from halut.training.stage import stage_recipe, train

STREAM = 1_000_000

UNSET: tuple[Any, ...] = ({}, None)
"""Options of a recipe that version 0.1 did not have are left out of hashes where they are so."""


def tuned_baseline(context: Context, epochs: int) -> nn.Module | None:
    """The exact network, tuned for `epochs` by the stages' recipe; None if none is wanted.

    baseline/weights.safetensors holds it. Like the base it is kept in `base.cache` under the hash
    of all that decides it: runs that differ in what replaces the layers share one.
    """
    config, folder = context.config, context.folder
    if not config.baseline or epochs == 0:
        return None
    network = copy.deepcopy(context.exact).requires_grad_(True)
    done = broadcast_from_rank0(lambda: folder.read("baseline/stage.json", {"steps": int}))
    path = folder.path / "baseline"
    if done is not None:
        load_network(path / "weights.safetensors", network)
        run.skip("baseline")
        return network
    recipe = stage_recipe(config, Stage([], epochs), config.seed * 1009, [])
    recipe = replace(recipe, freeze=[])  # what freezes beside tables is all the exact network has
    cache = config.base.cache
    cached = Path(cache) / f"baseline-{key(context, epochs, recipe)}" if cache else None
    note = (
        broadcast_from_rank0(lambda: RunFolder(cached).read("stage.json", {})) if cached else None
    )
    steps = 0
    if note is not None and cached is not None:
        log.info("baseline: the exact network, tuned earlier (%s)", cached)
        load_network(cached / "weights.safetensors", network)
        run.skip("baseline")
    else:
        log.info("baseline: the exact network, trained on for %s", counted(epochs, "epoch"))
        context.logger.stage, context.data.stream = "baseline", STREAM
        begun = time.monotonic()
        with run.part("baseline"):
            steps = train(context, network, path, epochs, recipe)
        note = {"epochs": epochs, "steps": steps, "seconds": time.monotonic() - begun}
        context.logger.offset += steps
    if is_main():
        save_network(path / "weights.safetensors", network)
        if cached is not None and steps:
            weights = (path / "weights.safetensors").read_bytes()
            write_bytes(cached / "weights.safetensors", weights)
            write_json(cached / "stage.json", note)
        folder.write("baseline/stage.json", note)
    return network


def key(context: Context, epochs: int, recipe: Recipe) -> str:
    """Hash of all that decides the tuned weights."""
    config = context.config
    data = {k: v for k, v in asdict(config.data).items() if k not in MACHINE_OPTIONS}
    decides = {k: v for k, v in asdict(recipe).items() if k != "epochs" and v not in UNSET}
    del decides["loss"]["commitment"]  # a loss of tables, and 0.1 did not have it
    relevant = {
        "model": context.plan.model,
        "start": digest(context.exact),
        "teacher": digest(context.teacher) if context.teacher is not None else None,
        "data": data,
        "samples": context.data.digests(),
        "recipe": decides,
        "epochs": epochs,
        "train_batches": config.schedule.train_batches,
        **({"batch_size": config.schedule.batch_size} if config.schedule.batch_size else {}),
        "select": config.schedule.select,
        "trainer": deciding(
            asdict(config.trainer), ("ema", "limit_train_batches", "limit_val_batches")
        ),
        **({"norms": config.recalibrate} if config.trainer.ema is not None else {}),
        "seed": config.seed,
        "processes": world_size(),
    }
    return config_hash(relevant)
