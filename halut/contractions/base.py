"""What every contraction is: y = contract(Qx(x), Qw(W))."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from halut.codecs.factors import QuantSpec
from halut.errors import HalutError
from halut.registry import Registry
from halut.sites.find import Site

contractions: Registry[type[Contraction]] = Registry("contraction")


AUTO = "auto"


class Quantized(Protocol):
    """The layer whose codes are multiplied: its site, and its operands after their codecs."""

    @property
    def site(self) -> Site: ...

    def quantized_input(self, x: Tensor) -> Tensor: ...

    def quantized_weight(self) -> Tensor: ...

    def quantized_bias(self) -> Tensor | None: ...


class Contraction:
    """Multiplies what the codecs of a layer made of its input and its weight."""

    @classmethod
    def preferred(cls, weight: QuantSpec | None, activation: QuantSpec | None) -> bool:
        """True if halut.contraction=auto means this one for what these codecs make."""
        return False

    @classmethod
    def refuses(cls, weight: QuantSpec | None, activation: QuantSpec | None) -> str | None:
        """Why it cannot multiply what these codecs make, or None if it can."""
        return None

    @classmethod
    def check(cls, site: Site) -> None:
        """Raise HalutError if it cannot multiply at the site, naming the valid range."""

    def product(self, layer: Quantized, x: Tensor) -> Tensor:
        """The layer's answer to its input x, with bias, and with the codecs' gradients."""
        raise NotImplementedError


def chosen(name: str, weight: QuantSpec | None, activation: QuantSpec | None) -> str:
    """The contraction that halut.contraction=NAME means; auto: what the codecs prefer, or dense.

    Raises HalutError on an unknown name, and for codecs that it refuses.
    """
    if name == AUTO:
        found = (each for each, kind in contractions.items() if kind.preferred(weight, activation))
        name = next(found, "dense")
    elif name not in contractions:
        known = ", ".join((AUTO, *contractions))
        raise HalutError(f"unknown halut.contraction {name!r}; choose one of: {known}")
    refused = contractions[name].refuses(weight, activation)
    if refused:
        raise HalutError(f"halut.contraction={name}: {refused}")
    return name
