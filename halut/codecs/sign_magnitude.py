"""Signed bytes that are multiplied as signs and magnitudes (positive matrix product)."""

from __future__ import annotations

from dataclasses import dataclass

from halut.codecs.base import between, choice, codecs
from halut.codecs.integer import IntegerCodec, IntegerOptions
from halut.option import option

SHARING = ("auto", "tensor", "channel")


@dataclass
class SignMagnitudeOptions(IntegerOptions):
    """As `integer`, up to a byte, and without blocks: a sum of products has one scale.

    A magnitude has all `width` bits, so that -2^(width - 1) has one too: |-128| = 128.
    """

    width: int = option(8, "bits with the sign, 2..8")

    def __post_init__(self) -> None:
        super().__post_init__()
        between("width", self.width, 2, 8, "magnitudes are bytes")
        choice("per", self.per, SHARING)


@codecs.register("sign_magnitude")
class SignMagnitudeCodec(IntegerCodec):
    """The values of `integer`; halut.ops.sign_magnitude multiplies their magnitudes, unsigned.

    Codes are stored in two's complement: the sign and |-128| apart would take nine bits.
    """

    Options = SignMagnitudeOptions

    @classmethod
    def refuses(cls, role: str, options: SignMagnitudeOptions) -> str | None:
        if role == "activation" and options.per == "channel":
            return "activations of one sum need one scale; halut.activation.per=tensor"
        return None
