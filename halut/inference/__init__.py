"""Networks prepared for inference."""

from halut.inference.prepare import prepare
from halut.inference.table_layers import PackedConv2d, PackedLayer, PackedLinear

__all__ = ["PackedConv2d", "PackedLayer", "PackedLinear", "prepare"]
