"""Exact network of a run: a file, pretrained weights, or trained first."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from halut.analysis.variants import counted
from halut.io import write_bytes, write_json
from halut.plugins import loading, reference
from halut.replace.schedule import ROLES
from halut.training.config.run_config import BaseConfig, LossConfig, TrainConfig
from halut.training.lightning.fit import fit
from halut.training.lightning.module import Recipe
from halut.training.logging.metrics import RunLogger
from halut.training.logging.progress import log
from halut.training.logging.run_progress import run
from halut.training.parallel.distributed import barrier, broadcast_from_rank0, is_main
from halut.training.pretrained import new_classifier
from halut.training.run_folder import (
    MACHINE_OPTIONS,
    RunFolder,
    config_hash,
    load_network,
    save_network,
)


def base_recipe(base: BaseConfig, seed: int) -> Recipe:
    """Plain supervised training of the exact network."""
    return Recipe(
        base.optimizer,
        dict.fromkeys(ROLES, base.lr),
        dict.fromkeys(ROLES, base.weight_decay),
        loss=LossConfig(label_smoothing=base.label_smoothing, distill=0.0),
        warmup=base.warmup,
        seed=seed,
        optimizer_options=dict(base.optimizer_options),
    )


def deciding(trainer: dict[str, Any], more: tuple[str, ...]) -> dict[str, Any]:
    """What decides the weights of the trainer's options, and `more`; for hashes.

    Two have the names of version 0.1, so that weights which it cached are found.
    """
    named = {"accumulate": "accumulate_grad_batches", "clip": "gradient_clip_val"}
    same = dict.fromkeys(("precision", "channels_last", *more))
    return {key: trainer[named.get(key, key)] for key in (*named, *same)}


def cache_key(config: dict[str, Any], samples: dict[str, str]) -> str:
    """Hash of all that decides the base weights; `samples` are the digests of the data's splits.

    Of a plugin's model or data set the plugin's source counts, too.
    """
    data = {k: v for k, v in config["data"].items() if k not in MACHINE_OPTIONS}
    base = {k: v for k, v in config["base"].items() if k != "cache" and v != {}}
    trainer = deciding(config["trainer"], ("limit_train_batches",))
    data["samples"] = samples  # another folder of the same options is other data
    relevant = {"data": data, "model": config["model"], "base": base, "trainer": trainer}
    return config_hash({**relevant, "seed": config["seed"], **_sources(config)})


def _sources(config: dict[str, Any]) -> dict[str, str]:
    """Digests of the plugins that bring the model and the data set; {} for halut's own."""
    named = {"model": str(config["model"]["name"]), "data set": str(config["data"]["name"])}
    found = {noun: loading.fingerprint(noun, name) for noun, name in named.items()}
    if (parts := reference.split(named["model"])) is not None:
        found["model"] = loading.source_digest(parts[0])
    return {f"source of the {noun}": digest for noun, digest in found.items() if digest is not None}


def load_or_train_exact_network(
    network: nn.Module,
    data: Any,
    folder: RunFolder,
    config: TrainConfig,
    plain: dict[str, Any],
    logger: RunLogger,
) -> str:
    """Give `network` its base weights; returns where they come from.

    base/weights.safetensors holds them afterwards. Trained ones are kept in `base.cache` under
    the hash of all that decides them, and taken from there by the next run that asks for the same.
    A network built from a file or pretrained weights has them already; where the pretrained
    classifier has another number of classes, and so started anew, training goes on from there.
    """
    stored = folder.path / "base" / "weights.safetensors"
    note = broadcast_from_rank0(
        lambda: folder.read("base/base.json", {"origin": str, "steps": int})
    )
    if note is not None:
        load_network(stored, network)
        run.skip("base")
        logger.offset += note["steps"]
        return str(note["origin"])
    cached = (
        Path(config.base.cache) / cache_key(plain, data.digests()) if config.base.cache else None
    )
    cached_weights = cached / "weights.safetensors" if cached else None
    steps = 0
    anew = new_classifier(config.model, data.num_classes) and config.base.epochs > 0
    if (config.model.weights or config.model.pretrained) and not anew:
        origin = f"file {config.model.weights}" if config.model.weights else "pretrained"
    elif cached_weights is not None and broadcast_from_rank0(cached_weights.exists):
        load_network(cached_weights, network)
        run.skip("base")
        origin = f"trained earlier ({cached_weights})"
    elif config.base.epochs == 0:
        origin = "random"
    else:
        with run.part("base"):
            steps = _train(network, data, folder, config, logger)
        start = "pretrained, " if anew else ""
        origin = f"{start}trained for {counted(config.base.epochs, 'epoch')}"
    if is_main():
        save_network(stored, network)
        if cached_weights is not None and steps:
            write_bytes(cached_weights, stored.read_bytes())
            write_json(cached_weights.with_name("recipe.json"), asdict(config.base))
        folder.write("base/base.json", {"origin": origin, "steps": steps})
    barrier()
    logger.offset += steps
    return origin


def _train(
    network: nn.Module, data: Any, folder: RunFolder, config: TrainConfig, logger: RunLogger
) -> int:
    log.info("base: training the exact network for %s", counted(config.base.epochs, "epoch"))
    logger.stage, data.stream = "base", 0
    settings = replace(config.trainer, ema=None)
    recipe = base_recipe(config.base, config.seed)
    epochs = config.base.epochs
    return fit(
        network,
        data,
        folder.path / "base",
        epochs,
        recipe,
        settings,
        logger,
        log_every=config.logger.every,
    )
