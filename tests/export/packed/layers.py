"""Networks to pack, and those of one replaced layer of every shape that files have to hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import halut
from tests.inference.networks import NETWORKS, network_of, replaced

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {  # a layer, and the shape of a sample
    "linear": (nn.Linear(18, 5), (18,)),
    "wide": (nn.Linear(300, 2), (300,)),
    "tokens": (nn.Linear(10, 3, bias=False), (4, 10)),
    "conv3x3": (nn.Conv2d(3, 4, 3, padding=1), (3, 6, 5)),
    "strided": (nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 7, 6)),
    "dilated": (nn.Conv2d(2, 3, 3, dilation=2, padding=(2, 1)), (2, 7, 6)),
    "grouped": (nn.Conv2d(6, 4, 3, padding=1, groups=2), (6, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 5, 5)),
}
"""Every name of a layer: what is replaced, and the shape of a sample."""


def one_layer(
    name: str, operator: str = "tree", samples: int = 24, **options: Any
) -> tuple[nn.Module, Tensor]:
    """A network of one layer by tables, and inputs on both sides of zero."""
    torch.manual_seed(3)
    layer, shape = LAYERS[name]
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(samples, *shape)
    network, _ = replaced(nn.Sequential(layer), x, operator, {"C": 2, "K": 8, **options})
    return network, x


def exported(folder: Path, name: str, operator: str = "tree", **options) -> Path:
    """A folder of a network's packed form: of NETWORKS, or of one layer."""
    if name in NETWORKS:
        network, x = network_of(name)
        network, _ = replaced(network, x, operator, options, keep_first=True)
    else:
        network, x = one_layer(name, operator, **options)
    halut.export(network, x, to="packed", folder=folder, samples=2)
    return folder
