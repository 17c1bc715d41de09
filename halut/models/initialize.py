"""Initialization of convolutions."""

from __future__ import annotations

from torch import nn


def he_normal(network: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / fan_out), and zero its bias.

    Source: He et al., Delving Deep into Rectifiers, 2015.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
