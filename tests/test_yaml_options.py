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
from halut.replace.operator_registry import config_type
from halut.training.config.evaluate_config import RuntimeConfig
from halut.training.config.hydra_schemas import conf_dir
from halut.training.config.run_config import LoggerConfig, PolicyConfig, ScheduleConfig
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
        if field.metadata.get("renamed"):
            continue  # an old name of another option
        assert re.search(rf"^{field.name}:( .*)? # \S", text, re.M), f"{path}: {field.name}"
