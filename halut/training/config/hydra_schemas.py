"""Structured schemas behind conf/: every group refuses a wrong key or type."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf, open_dict

from halut.codecs.factors import extra_types
from halut.configs import FACTORS
from halut.data import datasets
from halut.errors import HalutError
from halut.models.builders import models
from halut.models.config import ModelConfig
from halut.registry import origin_of
from halut.replace.operator_registry import config_type, operator_names
from halut.training.config import run_config as schemas
from halut.training.config.launcher_config import SlurmLauncherConfig
from halut.training.config.sweeper_config import ListSweeperConfig


def conf_dir() -> str:
    """The folder of YAML files: conf/ of the checkout, or the copy inside the installed package."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package.parent / "conf", package / "conf"):
        if (folder / "train.yaml").exists():
            return str(folder)
    raise FileNotFoundError("conf/train.yaml: the installation is incomplete")


def register() -> None:
    """File every schema under its group; safe to call again."""
    store = ConfigStore.instance()
    store.store(name="schema_train", node=schemas.TrainConfig)
    groups: dict[str, Any] = {
        "policy": schemas.PolicyConfig,
        "schedule": schemas.ScheduleConfig,
        "trainer": schemas.TrainerConfig,
        "logger": schemas.LoggerConfig,
        "debug": schemas.DebugConfig,
    }
    for group, node in groups.items():
        store.store(group=f"{group}/schema", name=group, node=node)
    store.store(group="hydra/launcher/schema", name="slurm", node=SlurmLauncherConfig)
    store.store(group="hydra/sweeper/schema", name="list", node=ListSweeperConfig)
    store.store(group="model/schema", name="model", node=ModelConfig)
    for name in operator_names():
        _store(store, "halut", name, functools.partial(_operator_schema, name))
    for name in datasets:
        _store(store, "data", name, functools.partial(getattr, datasets[name], "Config"))
    for name in without_file("model"):
        store.store(group="model", name=name, node=model_config(name))


def without_file(group: str) -> list[str]:
    """The choices of the groups halut, data and model that no file of conf/ is for: plugins'."""
    known = {"halut": operator_names, "data": lambda: datasets, "model": lambda: models}
    files = Path(conf_dir()) / group
    names = known[group]() if group in known else ()
    return [name for name in names if not (files / f"{name}.yaml").exists()]


def model_config(name: str) -> ModelConfig:
    """The configuration of a registered model: its builder's further arguments as options."""
    parameters = inspect.signature(models[name]).parameters.values()
    options = {
        each.name: each.default
        for each in parameters
        if isinstance(each.default, bool | int | float | str | None)
        and each.name not in ("num_classes", "in_channels")
    }
    return ModelConfig(name=name, source="local", options=options)


def _store(store: ConfigStore, group: str, name: str, make: Callable[[], Any]) -> None:
    """File a schema, and itself as a choice of its group where no file is one.

    Raises HalutError if the schema of a plugin's entry is none.
    """
    try:
        node = OmegaConf.structured(make())
        if name in without_file(group):
            node.name = name
            store.store(group=group, name=name, node=node)
        store.store(group=f"{group}/schema", name=name, node=node)
    except Exception as error:  # whatever a class does that is not what it is registered as
        nouns = ("data set",) if group == "data" else ("encoder", "codec", "operator")
        origin = next((o for noun in nouns if (o := origin_of(noun, name)) is not None), None)
        if origin is None:
            raise
        told = " ".join(str(error).split())
        raise HalutError(
            f"plugin {origin}: {name!r} has no options that are a dataclass of plain values: "
            f"{type(error).__name__}: {told}"
        ) from error


def _operator_schema(name: str) -> Any:
    """The operator's configuration with its name, and with options that only plugins' codecs have.

    Those can be set where any codec can be named: in a factor, or in a chain.
    """
    node = OmegaConf.structured(config_type(name))
    node.name = name
    for group in (node, *(node[role] for role in FACTORS if role in node)):
        with open_dict(group):
            group.update(dict.fromkeys(extra_types(OmegaConf.get_type(group))))
    return node
