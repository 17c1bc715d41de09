"""Signs and magnitudes: integer sums that are exact, of products of unsigned numbers."""

from __future__ import annotations

from torch import Tensor

from halut.codecs.factors import QuantSpec
from halut.contractions.base import Contraction, Quantized, contractions
from halut.ops.integer.sign_magnitude import check_inputs
from halut.sites.find import Site, exact_product

CODECS = ("integer", "sign_magnitude")


@contractions.register("sign_magnitude")
class SignMagnitude(Contraction):
    """y = 2^S sum_d sgn(w) sgn(x) |w||x| + Qb(b), S the exponent of the two factors.

    Training multiplies the decoded values in floating point, with the codecs' gradients: the same
    numbers while sums stay below 2^24, a rounding away above. What is prepared for inference
    (halut.inference.sign_magnitude) adds up in int32 and is exact but for the last rounding.
    """

    @classmethod
    def preferred(cls, weight: QuantSpec | None, activation: QuantSpec | None) -> bool:
        return all(spec is not None and spec["name"] == CODECS[1] for spec in (weight, activation))

    @classmethod
    def refuses(cls, weight: QuantSpec | None, activation: QuantSpec | None) -> str | None:
        for role, spec in (("weight", weight), ("activation", activation)):
            if spec is None or spec["name"] not in CODECS:
                found = "a float" if spec is None else spec["name"]
                return f"halut.{role} must be one of {', '.join(CODECS)}; it is {found}"
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

    def product(self, layer: Quantized, x: Tensor) -> Tensor:
        y = exact_product(layer.quantized_input(x), layer.quantized_weight(), None, layer.site)
        bias = layer.quantized_bias()
        if bias is None:
            return y
        return y + (bias if layer.site.geometry is None else bias[:, None, None])
