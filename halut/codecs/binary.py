"""One bit: the sign, or zero and the mean magnitude."""

from __future__ import annotations

from torch import Tensor

from halut.codecs.base import codecs
from halut.codecs.mean_scale import MeanScaleCodec
from halut.configs import Binary


@codecs.register("binary")
class BinaryCodec(MeanScaleCodec):
    """+1 where x >= 0, else -1; unsigned: mean abs x where x > 0, else 0, so that zero stays."""

    Config = Binary

    @property
    def has_scale(self) -> bool:
        return self.options.unsigned

    @property
    def levels(self) -> tuple[float, float]:  # type: ignore[override]
        return (0.0, 1.0) if self.options.unsigned else (-1.0, 1.0)

    def ones(self, x: Tensor) -> Tensor:
        return x > 0 if self.options.unsigned else x >= 0
