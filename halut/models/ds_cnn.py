"""DS-CNN of MLPerf Tiny's keyword spotting benchmark."""

from __future__ import annotations

from torch import Tensor, nn

from halut.models.builders import models
from halut.models.initialize import he_normal


class DepthwiseSeparable(nn.Module):
    """A 3x3 convolution per channel, then a 1x1 convolution across them, each with bn and relu."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.depthwise(x)))
        return self.act2(self.bn2(self.pointwise(x)))


class DSCNN(nn.Module):
    """A 10x4 convolution of stride 2, depthwise separable blocks, average pooling, linear.

    Features [B, in, frames, coefficients], the benchmark's [B, 1, 49, 10] -> maps of 25 x 5.

    Sources: Zhang et al., Hello Edge, 2017; Banbury et al., MLPerf Tiny Benchmark, 2021. Its
    24,908 parameters (64 channels, 12 words) count the running statistics (1,152) and convolution
    biases before batch norms (576), which do nothing and are left out here. The reference pads
    4 frames before and 5 after, this one 5 on both sides; the maps have the same size.
    """

    def __init__(
        self, num_classes: int, in_channels: int, width: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, (10, 4), 2, padding=(5, 1), bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.dropout1 = nn.Dropout(dropout / 2)
        self.blocks = nn.Sequential(*(DepthwiseSeparable(width) for _ in range(depth)))
        self.dropout2 = nn.Dropout(dropout)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout1(self.act1(self.bn1(self.conv1(x))))
        x = self.dropout2(self.blocks(x))
        return self.fc(self.pool(x).flatten(1))


@models.register("ds_cnn")
def ds_cnn(
    num_classes: int,
    in_channels: int = 1,
    width: int = 64,
    depth: int = 4,
    dropout: float = 0.4,
) -> nn.Module:
    """`width` channels, `depth` blocks; `dropout` before the end, half of it after the stem."""
    return DSCNN(num_classes, in_channels, width, depth, dropout)
