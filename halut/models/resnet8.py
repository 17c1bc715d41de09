"""ResNet-8 of MLPerf Tiny's image classification benchmark."""

from __future__ import annotations

from torch import Tensor, nn

from halut.models.basic_block import BasicBlock
from halut.models.builders import models
from halut.models.initialize import he_normal


class ResNet8(nn.Module):
    """A 3x3 stem, three residual stacks of one block each, average pooling, one linear layer.

    The stacks have w, 2w and 4w channels, the last two of stride 2, where the shortcut is a 1x1
    convolution with a bias and without batch norm, as in the reference. Images [B, in, H, W] of
    any size.

    Source: Banbury et al., MLPerf Tiny Benchmark, 2021. Its 78,666 parameters (w = 16) count the
    batch norms' running statistics (480) and convolution biases before batch norms (240), which
    do nothing and are left out here.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.stack1 = BasicBlock(width, width, 1, nn.Identity())
        self.stack2 = BasicBlock(width, 2 * width, 2, nn.Conv2d(width, 2 * width, 1, 2))
        self.stack3 = BasicBlock(2 * width, 4 * width, 2, nn.Conv2d(2 * width, 4 * width, 1, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.stack3(self.stack2(self.stack1(x)))
        return self.fc(self.pool(x).flatten(1))


@models.register("resnet8")
def resnet8(num_classes: int, in_channels: int = 3, width: int = 16) -> nn.Module:
    """`width`: channels of the stem and the first stack."""
    return ResNet8(num_classes, in_channels, width)
