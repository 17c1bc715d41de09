"""The model group: schema, defaults that choose the data set, names that build."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig
from timm.models import is_model

from halut.models.build import build_from
from halut.models.config import ModelConfig

CONF = Path(__file__).parents[2] / "conf" / "model"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
DATA = {
    "resnet8": "digits",
    "tiny_vit": "digits",
    "any": "digits",
    "resnet9": "cifar10",
    "resnet20": "cifar10",
    "ds_cnn": "speech_commands",
}
"""Where a model lands when no data set is named; all others: imagenet."""


@pytest.fixture(autouse=True)
def conf(tmp_path: Path) -> Iterator[None]:
    """The real model group in a main config whose data group only has names."""
    (tmp_path / "model").symlink_to(CONF)
    (tmp_path / "data").mkdir()
    (tmp_path / "experiment").mkdir()
    for name in ("digits", "cifar10", "fashion_mnist", "imagenet", "speech_commands"):
        (tmp_path / "data" / f"{name}.yaml").write_text(f"name: {name}\n")
    (tmp_path / "train.yaml").write_text("defaults: [data: digits, model: resnet8, _self_]\n")
    (tmp_path / "experiment" / "fashion.yaml").write_text(
        "# @package _global_\ndefaults: [override /data: fashion_mnist, override /model: resnet9]\n"
    )
    GlobalHydra.instance().clear()
    ConfigStore.instance().store(group="model/schema", name="model", node=ModelConfig)
    with initialize_config_dir(str(tmp_path), version_base=None):
        yield


def composed(*overrides: str) -> DictConfig:
    return compose("train", overrides=list(overrides))


def named(name: str) -> list[str]:
    return [f"model={name}", *(["model.name=mobilenetv3_small_100"] if name == "any" else [])]


def test_all_of_them() -> None:
    assert set(NAMES) >= {
        *("resnet8", "resnet9", "resnet20", "ds_cnn", "tiny_vit", "any", "resnet18", "resnet50"),
        *("levit_128s", "deit_tiny", "deit_small", "resmlp_12"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_composes_and_lands_on_its_data(name: str) -> None:
    config = composed(*named(name))
    assert config.data.name == DATA.get(name, "imagenet")
    assert set(config.model) == set(ModelConfig.__dataclass_fields__)
    assert config.model.pretrained == (name not in DATA)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_lines_data_wins(name: str) -> None:
    assert composed(*named(name), "data=fashion_mnist").data.name == "fashion_mnist"
    assert composed("data=fashion_mnist", *named(name)).data.name == "fashion_mnist"


def test_an_experiments_data_wins() -> None:
    config = composed("+experiment=fashion")
    assert (config.data.name, config.model.name) == ("fashion_mnist", "resnet9")
    assert composed("+experiment=fashion", "data=cifar10").data.name == "cifar10"


@pytest.mark.parametrize("name", NAMES)
def test_its_network_builds_and_answers(name: str) -> None:
    config = composed(*named(name), "model.pretrained=false").model
    shape = {"cifar10": (3, 32, 32), "imagenet": (3, 224, 224), "speech_commands": (1, 49, 10)}
    data = DATA.get(name, "imagenet")
    channels, *rest = shape.get(data, (1, 8, 8) if name != "any" else (3, 64, 64))
    with torch.device("meta"):
        model = build_from(config, num_classes=6, in_channels=channels).eval()
        assert model(torch.zeros(2, channels, *rest)).shape == (2, 6)
    if data == "imagenet":
        assert is_model(config.name)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.nonsense=1", "nonsense"),
        ("model.pretrained=perhaps", "pretrained"),
        ("model.num_classes=ten", "num_classes"),
    ],
)
def test_wrong_keys_and_types_are_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigCompositionException, match=re.escape(says)):
        composed(override)


def test_options_are_open() -> None:
    assert composed("model.options.width=4").model.options == {"width": 4}
    config = composed("model=any", "model.name=vgg11", "+model.options.drop_rate=0.1")
    assert config.model.options == {"drop_rate": 0.1}
