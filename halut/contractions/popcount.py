"""Products of bit planes, counted: networks prepared for inference multiply packed bits."""

from __future__ import annotations

from halut.codecs import codecs
from halut.codecs.factors import QuantSpec
from halut.contractions.base import contractions
from halut.contractions.dense import Dense


@contractions.register("popcount")
class Popcount(Dense):
    """y = sum_i sum_j alpha_i beta_j (n - 2 popcount(w_i xor x_j)) + Qb(b), for codecs whose values
    are sums of bit planes.

    Training and evaluation multiply the decoded values, as `dense` does, which is the reference;
    `halut.inference.prepare` makes layers that pack and count (halut.inference.bit_layers). The
    counts are exact; the sums of their products with factors differ from the reference's by
    rounding.
    """

    @classmethod
    def refuses(cls, weight: QuantSpec | None, activation: QuantSpec | None) -> str | None:
        known = [name for name, kind in codecs.items() if kind.binary]
        for role, spec in (("weight", weight), ("activation", activation)):
            name = "null" if spec is None else spec["name"]
            if name not in known:
                return f"{role} must be bit planes, one of: {', '.join(known)}; got {name}"
        if activation is not None and activation.get("per") == "channel":
            return "a scale for every input is no factor of a plane; choose activation.per=tensor"
        return None
