"""The sign times the mean magnitude (Rastegari et al. 2016)."""

from __future__ import annotations

from torch import Tensor

from halut.codecs.base import codecs
from halut.codecs.mean_scale import MeanScaleCodec
from halut.configs import BinaryScaling


@codecs.register("binary_scaling")
class BinaryScalingCodec(MeanScaleCodec):
    """alpha where x >= 0, else -alpha; alpha = mean abs x, of all scales that of least squared
    error: of every output channel of a weight."""

    Config = BinaryScaling
    levels = (-1.0, 1.0)

    def ones(self, x: Tensor) -> Tensor:
        return x >= 0
