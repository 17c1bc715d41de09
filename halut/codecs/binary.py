"""One bit: the sign, or zero and the mean magnitude."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from halut.codecs.base import codecs
from halut.codecs.mean_scale import MeanScaleCodec, MeanScaleOptions
from halut.option import option


@dataclass
class BinaryOptions(MeanScaleOptions):
    """`unsigned`: {0, 1} times the mean magnitude instead of {-1, 1}."""

    unsigned: bool = option(False, "{0, 1} times mean abs, not +-1")


@codecs.register("binary")
class BinaryCodec(MeanScaleCodec):
    """+1 where x >= 0, else -1; unsigned: mean abs x where x > 0, else 0, so that zero stays."""

    Options = BinaryOptions

    @property
    def scaled(self) -> bool:
        return self.options.unsigned

    @property
    def levels(self) -> tuple[float, float]:  # type: ignore[override]
        return (0.0, 1.0) if self.options.unsigned else (-1.0, 1.0)

    def ones(self, x: Tensor) -> Tensor:
        return x > 0 if self.options.unsigned else x >= 0
