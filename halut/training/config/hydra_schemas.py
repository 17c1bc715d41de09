"""The structured schemas behind conf/: every group refuses a wrong key or type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf, open_dict

from halut.codecs.factors import option_types
from halut.configs import FACTORS, Chain, FactorConfig
from halut.data import schemas as schemas_of_data
from halut.models.config import ModelConfig
from halut.replace.operator_registry import config_type, operator_names
from halut.training.config import run_config as schemas
from halut.training.config.launcher_config import SlurmLauncherConfig


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
    store.store(group="model/schema", name="model", node=ModelConfig)
    for name in operator_names():
        store.store(group="halut/schema", name=name, node=_operator_schema(name))
    for name, node in schemas_of_data().items():
        store.store(group="data/schema", name=name, node=node)


def _operator_schema(name: str) -> Any:
    """The operator's configuration with its name, and with options that only plugins' codecs have.

    Those can be set where any codec can be named: in a factor, or in a chain.
    """
    node = OmegaConf.structured(config_type(name))
    node.name = name
    groups: list[tuple[Any, type]] = [
        (node[role], FactorConfig) for role in FACTORS if role in node
    ]
    if issubclass(config_type(name), Chain):
        groups.append((node, Chain))
    for group, kind in groups:
        with open_dict(group):
            group.update(dict.fromkeys(option_types(kind)))
    return node
