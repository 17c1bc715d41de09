"""What every contraction is: y = contract(Qx(x), Qw(W))."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from halut.codecs.factors import Spec
from halut.registry import Registry

if TYPE_CHECKING:
    from halut.layers.codec import CodecLayer

contractions: Registry[type[Contraction]] = Registry("contraction")


class Contraction:
    """Multiplies what the codecs of a layer made of its input and its weight."""

    @classmethod
    def refuses(cls, weight: Spec | None, activation: Spec | None) -> str | None:
        """Why it cannot multiply what these codecs make, or None if it can."""
        return None

    def product(self, layer: CodecLayer, x: Tensor) -> Tensor:
        """The layer's answer to its input x, with bias, and with the codecs' gradients."""
        raise NotImplementedError
