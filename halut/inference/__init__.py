"""Networks prepared for inference: layers by look-up tables frozen to what they need to answer."""

from halut.inference.prepare import prepare
from halut.inference.table_layers import PackedConv2d, PackedLayer, PackedLinear

__all__ = ["PackedConv2d", "PackedLayer", "PackedLinear", "prepare"]
