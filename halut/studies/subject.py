"""What a study is about: a configuration, its exact network, its data, and what identifies them."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from halut.analysis.learned_layers import LearnedLayers
from halut.data import datasets
from halut.data.loader import BatchLoader
from halut.data.sampler import OrderedBatches
from halut.data.splits import balanced_subset
from halut.errors import HalutError
from halut.io import read_json
from halut.models.config import ModelConfig
from halut.option import unknown, with_new_names
from halut.plugins import loading
from halut.replace import swap
from halut.replace.operator_registry import config_type
from halut.results.record import DIGEST_LENGTH, timestamp
from halut.sites.plan import Plan
from halut.training.calibrate import CalibrationBatches
from halut.training.config.command import command_line
from halut.training.config.hydra_errors import one_line
from halut.training.config.hydra_schemas import conf_dir, register
from halut.training.config.overrides import parsed_overrides
from halut.training.config.plugin_options import import_plugins
from halut.training.config.renamed import with_new_keys
from halut.training.config.run_config import TrainConfig, check, plain_values
from halut.training.config.unused_options import check_effect
from halut.training.exact_network import load_or_train_exact_network
from halut.training.logging.git import git_revision
from halut.training.logging.metrics import RunLogger
from halut.training.main import typed
from halut.training.parallel.distributed import device_of, warn
from halut.training.planning import make_plan
from halut.training.run import build_data_of, build_network_of
from halut.training.run_folder import RunFolder, load_network, with_defaults

PROGRAM = "python train.py"
"""Whose options they are: what a message tells to ask for help."""


def compose(overrides: Sequence[str]) -> TrainConfig:
    """The configuration of these overrides, composed and checked as train.py does.

    One of them may be the path of a run folder, alone: then that run's. Raises HalutError, one
    line, for what cannot be composed, is out of range or has no effect.

    >>> compose(["model=resnet8", "halut.K=8"]).halut.K
    8
    """
    folders = [each for each in overrides if os.path.isfile(os.path.join(each, "config.json"))]
    if folders:
        if len(overrides) > 1:
            others = " ".join(each for each in overrides if each != folders[0])
            raise HalutError(f"{folders[0]} is a run folder, which has its options: leave {others}")
        return of_run(Path(folders[0]))
    for each in overrides:
        if "=" not in each and not each.startswith("~"):
            raise HalutError(f"{each}: neither a run folder nor an option KEY=VALUE")
    try:
        for override in parsed_overrides(overrides).values():
            if override.is_sweep_override():
                raise HalutError(f"{override.input_line}: one value is wanted here, not several")
        arguments, warnings = import_plugins(with_new_keys(overrides), True)
    except HydraException as error:
        raise HalutError(one_line(error, TrainConfig, PROGRAM)) from error
    for warning in warnings:
        warn(warning)
    register()
    hydra_config, session = HydraConfig.instance(), GlobalHydra.instance()
    before = hydra_config.cfg, session.hydra
    session.clear()
    try:
        with initialize_config_dir(conf_dir(), job_name="train", version_base="1.3"):
            config = hydra.compose("train", arguments, return_hydra_config=True)
            hydra_config.set_config(config)
            OmegaConf.set_struct(config, False)
            config.pop("hydra")
            settings = typed(config)
            check(settings)
            check_effect(settings)
            return settings
    except (HydraException, OmegaConfBaseException) as error:
        raise HalutError(one_line(error, TrainConfig, PROGRAM)) from error
    except ValueError as error:  # Hydra's own, of GROUP=null and GROUP=1
        if "Config group override" not in str(error):
            raise
        raise HalutError(" ".join(str(error).split())) from error
    finally:
        hydra_config.cfg, session.hydra = before


def of_run(folder: Path) -> TrainConfig:
    """The configuration of a run folder; HalutError if it is damaged or needs what is not here."""
    saved = read_json(folder / "config.json", {"data": dict, "model": dict, "halut": dict})
    plain: dict[str, Any] = with_defaults(with_new_names(saved))
    loading.load(plain.get("plugins") or [])
    register()
    name = plain["data"].get("name")
    if name not in datasets:
        raise HalutError(f"{folder}: {unknown('data set', str(name), list(datasets))}")
    groups = {
        "data": datasets[name].Config,
        "model": ModelConfig,
        "halut": config_type(str(plain["halut"].get("name"))),
    }
    try:
        config = OmegaConf.structured(TrainConfig)
        for group, schema in groups.items():
            config[group] = OmegaConf.structured(schema)
        config = OmegaConf.merge(config, OmegaConf.create(plain))
    except OmegaConfBaseException as error:
        line = str(error).splitlines()[0]
        raise HalutError(f"{folder / 'config.json'}: {line}") from error
    assert isinstance(config, DictConfig)
    settings = typed(config)
    check(settings)
    return settings


@dataclass(frozen=True)
class Subject:
    """An exact network with its data, and the plan of its policy.

    `network` is frozen, in evaluation mode and on the configuration's device; `model` and `weights`
    identify it, and `folder` is the run it is of, if any.
    """

    config: TrainConfig
    data: Any
    network: nn.Module
    plan: Plan
    weights: str
    folder: Path | None = None

    @classmethod
    def of(
        cls,
        overrides: Sequence[str],
        threads: int | None = None,
        check: Callable[[TrainConfig, Plan], object] | None = None,
    ) -> Subject:
        """The subject of overrides, or of a run folder, alone, whose base weights it has.

        The exact network is trained, or found in base.cache, as a run does it; nothing is written
        but that cache. `check` is called before that, to refuse what does not go with the network.
        Raises HalutError if the configuration, the data or the policy do not do.
        """
        config = compose(overrides)
        if threads or config.trainer.threads:
            torch.set_num_threads(threads or config.trainer.threads or 1)
        folder = Path(overrides[0]) if overrides and Path(overrides[0]).is_dir() else None
        data = build_data_of(config)
        network = build_network_of(config, data)
        plan = make_plan(config, network, data)
        if check is not None:
            check(config, plan)
        if folder is None:
            with tempfile.TemporaryDirectory(prefix="halut-") as scratch:
                load_or_train_exact_network(
                    network,
                    data,
                    RunFolder(Path(scratch)),
                    config,
                    plain_values(config),
                    RunLogger([]),
                )
        elif (stored := folder / "base" / "weights.safetensors").is_file():
            load_network(stored, network)
        else:
            raise HalutError(f"{folder} holds no exact network yet: {stored} is missing")
        network.to(device_of(config.trainer.accelerator)).eval().requires_grad_(False)
        return cls(config, data, network, plan, swap.digest(network)[:DIGEST_LENGTH], folder)

    @property
    def learned(self) -> LearnedLayers | None:
        """Where layers are kept that were learned alone: in schedule.cache, if that is given."""
        if self.config.schedule.cache is None:
            return None
        salt = {name: loading.source_digest(name) for name in self.plan.plugins}
        return LearnedLayers(Path(self.config.schedule.cache) / "layers", json.dumps(salt))

    @property
    def identity(self) -> dict[str, Any]:
        """What a record says of the network: model, options, digest of its weights."""
        model = self.config.model
        return {"model": model.name, "options": dict(model.options), "weights": self.weights}

    def data_identity(self, split: str, samples: int | None) -> dict[str, Any]:
        """What a record says of the data: name, split, how many samples of it, its digest."""
        size = len(self.data.splits[split])
        return {
            "name": self.data.config.name,
            "split": split,
            "samples": min(samples or size, size),
            "digest": self.data.digests()[split][:DIGEST_LENGTH],
        }

    def batches(
        self, split: str, samples: int | None = None, size: int | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """(images, labels) of `samples` samples of a split, class-balanced, the same in every call;
        None: all. They are held in memory."""
        part = self.data.splits[split]
        indices = part.indices
        if samples is not None:
            indices = indices[balanced_subset(part.labels, samples, 0).sort().values]
        size = size or self.data.config.eval_batch_size
        return list(BatchLoader(part, OrderedBatches(indices, size, shard=(0, 1))))

    def calibration(self, images: int, seed: int = 0) -> CalibrationBatches:
        """Batches of about `images` training images, as a run's calibration draws them."""
        return CalibrationBatches(self.data, images, seed)


def context(seconds: float | None = None, run: str | None = None) -> dict[str, Any]:
    """Where a record comes from: command, commit, versions, machine, time."""
    return {
        "command": command_line(),
        "commit": git_revision(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": f"{platform.node()}, {platform.machine()}, {torch.get_num_threads()} threads",
        "time": now(),
        "seconds": seconds,
        "run": run,
    }


def now() -> str:
    """The time in ISO 8601, UTC."""
    return timestamp(time.time())
