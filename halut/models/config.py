"""Model configuration."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

from halut.option import option

SOURCES = ("auto", "local", "timm", "torchvision")


@dataclass
class ModelConfig:
    """The network of a run; `halut.models.build.build_from` makes it."""

    name: str = option(
        MISSING,
        "a local, timm (also with a tag: resnet50.a1_in1k) or torchvision name; your own class or "
        "function: my_module:MyNet, ./my_file.py:MyNet",
    )
    source: str = option(
        "auto", "where it comes from; auto: the first that has the name", choices=SOURCES
    )
    pretrained: bool = option(False, "start from the weights that timm or torchvision publish")
    weights: str | None = option(
        None, "start from this safetensors or torch file instead; it wins over pretrained"
    )
    options: dict[str, Any] = option(
        {}, "further arguments of its builder (+model.options.KEY=VALUE)"
    )
    num_classes: int | None = option(None, "classes; null: as many as the data set has")
    in_channels: int | None = option(
        None, "channels of its input; null: as many as the data set has"
    )
