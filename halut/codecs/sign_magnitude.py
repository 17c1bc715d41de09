"""Signed bytes that are multiplied as signs and magnitudes (positive matrix product)."""

from __future__ import annotations

from halut.codecs.base import codecs
from halut.codecs.integer import IntegerCodec
from halut.configs import SignMagnitude


@codecs.register("sign_magnitude")
class SignMagnitudeCodec(IntegerCodec):
    """The values of `integer`; halut.ops.sign_magnitude multiplies their magnitudes, unsigned.

    Codes are stored in two's complement: the sign and |-128| apart would take nine bits.
    """

    Config = SignMagnitude

    @classmethod
    def refuses(cls, role: str, options: SignMagnitude) -> str | None:
        if role == "activation" and options.per == "channel":
            return "activations of one sum need one scale; halut.activation.per=tensor"
        return None
