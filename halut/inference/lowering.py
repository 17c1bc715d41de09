"""Which form a layer of the codec family has for inference."""

from __future__ import annotations

from collections.abc import Callable

from halut.codecs.mxint8 import Mxint8Codec
from halut.contractions.dense import Dense
from halut.contractions.popcount import Popcount
from halut.contractions.sign_magnitude import SignMagnitude
from halut.errors import HalutError
from halut.inference.base import InferenceLayer
from halut.inference.bit_layers import BitLayer
from halut.inference.codec import FrozenCodecLayer
from halut.inference.mxint8 import Mxint8Layer
from halut.inference.sign_magnitude import SignMagnitudeLayer
from halut.layers.codec import CodecLayer

FORMS: dict[type, Callable[[CodecLayer], InferenceLayer]] = {
    Dense: FrozenCodecLayer,
    Popcount: BitLayer,
    SignMagnitude: SignMagnitudeLayer,
}


def frozen(layer: CodecLayer) -> InferenceLayer:
    """The layer's form, by its contraction and codec; HalutError if it has none."""
    kind = type(layer.contraction)
    if kind not in FORMS:
        raise HalutError(f"{layer.site.name}: a {kind.__name__} contraction has no inference form")
    if kind is Dense and isinstance(layer.weight_codec, Mxint8Codec):
        return Mxint8Layer(layer)
    return FORMS[kind](layer)
