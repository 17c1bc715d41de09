"""ResNet-20 for CIFAR."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from halut.errors import HalutError
from halut.models.basic_block import BasicBlock
from halut.models.builders import models
from halut.models.initialize import he_normal


class SubsampleAndPad(nn.Module):
    """The shortcut without parameters: every second pixel, and zeros for the new channels.

    [B, in, H, W] -> [B, out, ceil(H/2), ceil(W/2)], the zeros half before, half after.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class ResNet20(nn.Module):
    """A 3x3 stem, three layers of n residual blocks (w, 2w, 4w channels), one linear layer.

    Shortcuts are option A (no parameters). Images [B, in, H, W] of any size.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2 (n = 3,
    w = 16: 0.27 million parameters).
    """

    def __init__(self, num_classes: int, in_channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.layer1 = layer(width, width, blocks)
        self.layer2 = layer(width, 2 * width, blocks)
        self.layer3 = layer(2 * width, 4 * width, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.pool(x).flatten(1))


def layer(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    """Residual blocks; where the channels grow the first has stride 2."""
    if in_channels == out_channels:
        first = BasicBlock(in_channels, out_channels, 1, nn.Identity())
    else:
        shortcut = SubsampleAndPad(in_channels, out_channels)
        first = BasicBlock(in_channels, out_channels, 2, shortcut)
    rest = [BasicBlock(out_channels, out_channels, 1, nn.Identity()) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


@models.register("resnet20")
def resnet20(num_classes: int, in_channels: int = 3, width: int = 16, blocks: int = 3) -> nn.Module:
    """`width`: channels of the stem and the first layer; `blocks` of a layer: 6 blocks + 2 layers.

    Raises HalutError unless there is a block.
    """
    if blocks < 1:
        raise HalutError(f"resnet20: blocks must be at least 1, got {blocks}")
    return ResNet20(num_classes, in_channels, width, blocks)
