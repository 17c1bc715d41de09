"""Every option stands in its group's YAML, with a value and a comment."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from halut.data import schemas as data_schemas
from halut.models.config import ModelConfig
from halut.option import default_of
from halut.replace.operator_registry import config_type
from halut.training.config.evaluate_config import RuntimeConfig
from halut.training.config.hydra_schemas import conf_dir
from halut.training.config.launcher_config import SlurmLauncherConfig
from halut.training.config.run_config import (
    LoggerConfig,
    PolicyConfig,
    ScheduleConfig,
    TrainConfig,
)
from halut.training.config.sweeper_config import ListSweeperConfig
from halut.training.config.trainer_config import TrainerConfig

CONF = Path(conf_dir())
SCHEMAS: dict[str, Any] = {
    "data": lambda name: data_schemas()[name],
    "halut": config_type,
    "logger": lambda name: LoggerConfig,
    "model": lambda name: ModelConfig,
    "policy": lambda name: PolicyConfig,
    "runtime": lambda name: RuntimeConfig,
    "schedule": lambda name: ScheduleConfig,
    "trainer": lambda name: TrainerConfig,
}
FILES = [path for group in SCHEMAS for path in sorted((CONF / group).glob("*.yaml"))]


def written(path: Path) -> str:
    """The text of a file, and before it that of the one of its group that it starts from."""
    text = path.read_text()
    first = str(OmegaConf.create(text).defaults[0])
    return text if first.startswith("schema/") else written(path.with_name(f"{first}.yaml")) + text


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_option_has_a_line_with_a_comment(path):
    schema = SCHEMAS[path.parent.name](path.stem)
    text = written(path)
    for field in dataclasses.fields(schema):
        needs = field.metadata.get("needs")
        of_loggers = schema is LoggerConfig and needs and field.name != "every"
        if of_loggers and needs(LoggerConfig(name=path.stem), None) is not None:
            continue  # another logger's
        assert re.search(rf"^{field.name}:( .*)? # \S", text, re.M), f"{path}: {field.name}"


def test_every_option_of_the_table_of_contents_too():
    text = (CONF / "train.yaml").read_text()
    config = TrainConfig()
    for field in dataclasses.fields(config):
        group = getattr(config, field.name)
        if not dataclasses.is_dataclass(group):
            if field.name not in ("data", "model", "halut"):
                assert re.search(rf"^{field.name}:( .*)? # \S", text, re.M), field.name
        elif field.name not in (*SCHEMAS, "debug"):
            section = re.search(rf"^{field.name}:.*\n((  .*\n)+)", text, re.M)
            assert section is not None, field.name
            assert_complete(group, section[1], "  ")


def assert_complete(group: Any, text: str, indent: str) -> None:
    """Every option of a dataclass has a line in the text with its default and a comment."""
    values = OmegaConf.create(text)
    for field in dataclasses.fields(group):
        default = getattr(group, field.name)
        assert re.search(rf"^{indent}{field.name}:( .*)? # \S", text, re.M), field.name
        if dataclasses.is_dataclass(default):
            assert OmegaConf.to_container(values[field.name]) == dataclasses.asdict(default)
        else:
            assert values[field.name] == default, field.name


def test_every_option_of_the_slurm_launcher_too():
    text = (CONF / "hydra/launcher/slurm.yaml").read_text()
    values = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    for field in dataclasses.fields(SlurmLauncherConfig):
        if field.name != "_target_":
            assert re.search(rf"^{field.name}: .* # \S", text, re.M), field.name
            assert values[field.name] == default_of(field), field.name


def test_every_option_of_the_list_sweeper_too():
    text = (CONF / "hydra/sweeper/list.yaml").read_text()
    for field in dataclasses.fields(ListSweeperConfig):
        if field.name != "_target_":
            assert re.search(rf"^{field.name}: .* # \S", text, re.M), field.name
