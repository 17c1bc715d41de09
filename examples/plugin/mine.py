import math
from dataclasses import dataclass

import torch
from torch import nn

from halut.codecs import Codec, Coded, codecs
from halut.data import (
    ArraySamples,
    DataModule,
    ImageConfig,
    Pools,
    Split,
    datasets,
    image_statistics,
)
from halut.encoders import Encoder, bucket_means, check_rows, encoders
from halut.models import models


@encoders.register("samples")
class SampleEncoder(Encoder):
    """code = the nearest of K calibration rows, drawn at random once and trained from there."""

    estimators = ("soft", "identity")  # the default first

    def __init__(self, blocks, K, options=None):
        super().__init__(blocks, K, options)
        self.prototypes = nn.Parameter(torch.zeros(blocks.total, K, blocks.V))

    def distances(self, inputs):  # squared, [N, C, K]
        x, P = self.blocks.split(inputs), self.prototypes.to(inputs.dtype)
        cross = torch.einsum("ncv,ckv->nck", x, P)
        return x.square().sum(-1, keepdim=True) - 2 * cross + P.square().sum(-1)

    def calibrate(self, rows, *, seed=0, weight=None, progress=None):
        check_rows(rows, self.blocks.inputs)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        drawn = rows[order[torch.arange(self.K) % len(rows)]]
        self.prototypes.data.copy_(self.blocks.split(drawn).transpose(0, 1))
        if progress is not None:
            progress(self.blocks.total)
        return bucket_means(rows, self.codes(rows), self.blocks, self.prototypes.detach())

    def initial_tau(self, rows):
        return float(self.distances(rows).detach().mean()) / self.K + 1e-6

    def encode(self, inputs):
        return self.distances(inputs).argmin(-1).to(torch.uint8)

    def assign(self, inputs, tau):  # soft assignment [N, C, K]: its gradient trains the encoder
        return torch.softmax(-self.distances(inputs) / tau.reshape(-1, 1), -1)

    def param_groups(self):
        return {"prototypes": [self.prototypes]}

    def cost(self, rows):
        macs, compares = self.K * self.blocks.inputs, (self.K - 1) * self.blocks.total
        return {"macs": rows * macs, "compares": rows * compares, "state_bytes": 4 * macs}


@codecs.register("ternary")
class TernaryCodec(Codec):
    """s times -1, 0 or 1, the codes 0, 1 and 2; s = mean abs x of the row or output channel."""

    width = 2
    scale_bits = 32

    def scales(self, x, keep_mask=None):
        return x.abs().mean((-2, -1), keepdim=True)

    def scale_count(self):
        return self.layout.numel // math.prod(self.layout.shape[-2:])

    def encode(self, x, scales=None):
        scales = self.scales(x) if scales is None else scales
        steps = (x / scales.clamp_min(1e-30)).clamp(-1, 1).round()
        return Coded(steps.to(torch.int32) + 1, scales)

    def decode(self, coded):
        return (coded.codes - 1) * coded.scales

    def limits(self, scales):
        return -scales, scales


@models.register("mlp")
def mlp(num_classes: int, in_channels: int = 1, size: int = 8, width: int = 64) -> nn.Module:
    """Three linear layers on small images."""
    inputs = in_channels * size * size
    layers = [nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(width, num_classes))


@dataclass
class BlobsConfig(ImageConfig):
    """Ten random images under noise; `spread`: gray levels of that noise."""

    name: str = "blobs"
    spread: float = 40.0


@datasets.register("blobs")
class Blobs(DataModule):
    """Ten random 8x8 images under noise."""

    Config = BlobsConfig
    config: BlobsConfig

    def load(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(2000) % 10
        shapes = torch.rand(10, 1, 8, 8, generator=generator) * 255
        noise = torch.randn(2000, 1, 8, 8, generator=generator) * self.config.spread
        images = (shapes[labels] + noise).clamp(0, 255).to(torch.uint8)
        statistics = image_statistics(self.config, channels=1)
        self.mean, self.std = (values.tolist() for values in statistics)
        source = ArraySamples("blobs", images, labels, statistics, self.config)
        halves = Split(source, torch.arange(1500)), Split(source, torch.arange(1500, 2000))
        return Pools(*halves, [str(digit) for digit in range(10)])
