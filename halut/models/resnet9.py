"""ResNet-9, the fast CIFAR network."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from halut.models.builders import models
from halut.models.initialize import he_normal


class ConvBlock(nn.Module):
    """pool(relu(bn(conv3x3(x)))).  [B, in, H, W] -> [B, out, H, W], halved if `pool`."""

    def __init__(self, in_channels: int, out_channels: int, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.act(self.bn(self.conv(x))))


class Residual(nn.Module):
    """x + conv2(conv1(x)), [B, channels, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBlock(channels, channels)
        self.conv2 = ConvBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class ResNet9(nn.Module):
    """Eight 3x3 convolutions of w, 2w, 4w and 8w channels, max pooling, one linear layer.

    Images [B, in, H, W] with H, W >= 8.

    Sources: Page, How to Train Your ResNet, 2018 (the network); Schönleber et al., Stella Nera,
    2023 (its layers as look-up tables). w = 64 has 6.57 million parameters.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv1=ConvBlock(in_channels, width),
                conv2=ConvBlock(width, 2 * width, pool=True),
                res1=Residual(2 * width),
                conv3=ConvBlock(2 * width, 4 * width, pool=True),
                conv4=ConvBlock(4 * width, 8 * width, pool=True),
                res2=Residual(8 * width),
            )
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(8 * width, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(x)).flatten(1))


@models.register("resnet9")
def resnet9(num_classes: int, in_channels: int = 3, width: int = 64) -> nn.Module:
    """`width`: channels of the first convolution."""
    return ResNet9(num_classes, in_channels, width)
