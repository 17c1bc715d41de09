"""Which layer for inference a layer of the codec family becomes."""

from __future__ import annotations

from collections.abc import Callable

from halut.codecs.mxint8 import Mxint8Codec
from halut.errors import HalutError
from halut.inference.base import InferenceLayer
from halut.inference.bit_layers import BitLayer
from halut.inference.codec_layers import DecodedCodecLayer
from halut.inference.mxint8 import Mxint8Layer
from halut.inference.sign_magnitude import SignMagnitudeLayer
from halut.layers.codec import CodecLayer
from halut.registry import Registry

inference_layers: Registry[Callable[[CodecLayer], InferenceLayer]] = Registry("inference layer")
"""By the name of the contraction: the class of what a trained layer becomes."""
inference_layers.register("popcount")(BitLayer)
inference_layers.register("sign_magnitude")(SignMagnitudeLayer)


@inference_layers.register("dense")
def dense_layer(layer: CodecLayer) -> InferenceLayer:
    """MXINT8 weights are multiplied as they are packed, others decoded."""
    if isinstance(layer.weight_codec, Mxint8Codec):
        return Mxint8Layer(layer)
    return DecodedCodecLayer(layer)


def lower(layer: CodecLayer) -> InferenceLayer:
    """The layer's form, by its contraction and codec; HalutError if it has none."""
    name = layer.contraction
    if name not in inference_layers:
        raise HalutError(f"{layer.site.name}: contraction {name!r} has no inference form")
    return inference_layers[name](layer)
