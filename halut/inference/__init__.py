"""Networks prepared for inference: layers by look-up tables frozen to what they need to answer."""

from halut.inference.packed import PackedConv2d, PackedLayer, PackedLinear
from halut.inference.prepare import prepare

__all__ = ["PackedConv2d", "PackedLayer", "PackedLinear", "prepare"]
