"""The local networks by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from halut.registry import Registry

Builder = Callable[..., nn.Module]
"""builder(num_classes, in_channels=..., **options) -> network with logits [B, num_classes]."""

models: Registry[Builder] = Registry("model")
