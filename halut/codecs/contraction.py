"""Contractions: how the codes of activations and weight are multiplied, and which codecs fit.

Training and evaluation multiply decoded values, whatever the contraction; what a network prepared
for inference does instead is its entry in `halut.inference.lowering`.
"""

from __future__ import annotations

from typing import ClassVar

from halut.codecs.base import codecs
from halut.codecs.factors import QuantSpec
from halut.errors import HalutError
from halut.ops.integer.sign_magnitude import check_inputs
from halut.registry import Registry
from halut.sites.find import Site

AUTO = "auto"


class Contraction:
    """Which codecs and sites a contraction is for; subclass it, register the class by its name.

    Its layer for inference is registered by the same name in
    `halut.inference.lowering.inference_layers`.
    """

    adds_bias_last: ClassVar[bool] = False
    """True if the bias is added to the finished sum, in training as well, so that the sum rounds as
    the integer sum of inference does."""

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


contractions: Registry[type[Contraction]] = Registry("contraction")


@contractions.register("dense")
class Dense(Contraction):
    """y = Qx(x) Qw(W)' + Qb(b), a floating-point product of decoded values; any codecs."""


@contractions.register("popcount")
class Popcount(Contraction):
    """y = sum_i sum_j alpha_i beta_j (n - 2 popcount(w_i xor x_j)) + Qb(b), for codecs whose values
    are sums of bit planes.

    Networks prepared for inference pack and count (halut.inference.bit_layers): the counts are
    exact; the sums of their products with factors differ from the decoded values' by rounding.
    """

    @classmethod
    def refuses(cls, weight: QuantSpec | None, activation: QuantSpec | None) -> str | None:
        binary = [name for name, kind in codecs.items() if kind.binary]
        for role, spec in (("weight", weight), ("activation", activation)):
            name = "null" if spec is None else spec["name"]
            if name not in binary:
                return f"{role} must be bit planes, one of: {', '.join(binary)}; got {name}"
        if activation is not None and activation.get("per") == "channel":
            return "a scale for every input is no factor of a plane; choose activation.per=tensor"
        return None


@contractions.register("sign_magnitude")
class SignMagnitude(Contraction):
    """y = 2^S sum_d sgn(w) sgn(x) |w||x| + Qb(b), S the exponent of the two factors.

    Training's floating-point sums are the same numbers below 2^24, a rounding away above. Networks
    prepared for inference (halut.inference.sign_magnitude) add up in int32 and are exact but for
    the last rounding.
    """

    CODECS: ClassVar[tuple[str, ...]] = ("integer", "sign_magnitude")
    adds_bias_last = True

    @classmethod
    def preferred(cls, weight: QuantSpec | None, activation: QuantSpec | None) -> bool:
        return all(s is not None and s["name"] == "sign_magnitude" for s in (weight, activation))

    @classmethod
    def refuses(cls, weight: QuantSpec | None, activation: QuantSpec | None) -> str | None:
        for role, spec in (("weight", weight), ("activation", activation)):
            if spec is None or spec["name"] not in cls.CODECS:
                name = "a float" if spec is None else spec["name"]
                return f"halut.{role} must be one of {', '.join(cls.CODECS)}; it is {name}"
            if spec["width"] > 8:
                return f"halut.{role}.width must be in 2..8, got {spec['width']}"
            if spec["per"] == "block" or (role, spec["per"]) == ("activation", "channel"):
                return (
                    f"halut.{role}.per={spec['per']}: inputs of one sum need one scale; choose one "
                    f"of: auto, tensor{', channel' if role == 'weight' else ''}"
                )
        return None

    @classmethod
    def check(cls, site: Site) -> None:
        check_inputs(site.D, site.name)


def resolve_contraction(name: str, weight: QuantSpec | None, activation: QuantSpec | None) -> str:
    """The contraction that halut.contraction=NAME means; auto: what the codecs prefer, or dense.

    Raises HalutError on an unknown name, and for codecs that it refuses.
    """
    if name == AUTO:
        preferred = (n for n, kind in contractions.items() if kind.preferred(weight, activation))
        name = next(preferred, "dense")
    elif name not in contractions:
        choices = ", ".join((AUTO, *contractions))
        raise HalutError(f"unknown halut.contraction {name!r}; choose one of: {choices}")
    reason = contractions[name].refuses(weight, activation)
    if reason:
        raise HalutError(f"halut.contraction={name}: {reason}")
    return name
