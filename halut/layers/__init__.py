"""Layers of the table family."""

from halut.layers.base import LUTLayer
from halut.layers.conv import LUTConv2d
from halut.layers.linear import LUTLinear

__all__ = ["LUTConv2d", "LUTLayer", "LUTLinear"]
