"""What a configuration says about the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ModelConfig:
    """The network of a run; `halut.models.build.build_from` makes it."""

    name: str
    """A local, timm (also with a tag: resnet50.a1_in1k) or torchvision name."""
    source: str = "auto"
    """auto (the first that has the name), local, timm or torchvision."""
    pretrained: bool = False
    """Start from the weights that timm or torchvision publish."""
    weights: str | None = None
    """Start from this safetensors or torch file instead; it wins over `pretrained`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the network's builder."""
    num_classes: int | None = None
    """None: as many as the data set has."""
    in_channels: int | None = None
    """None: as many as the data set has."""
