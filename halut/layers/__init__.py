"""Layers of the table family."""

from halut.layers.lut import LUTConv2d, LUTLayer, LUTLinear

__all__ = ["LUTConv2d", "LUTLayer", "LUTLinear"]
