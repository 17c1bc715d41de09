"""Modules of a network of 8-bit activations, beside oneDNN's products."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.inference.onednn import Grid, Int8Step
from halut.inference.table_layers import PackedConv2d, PackedLayer
from halut.ops import ConvGeometry
from halut.ops.core import dispatch
from halut.ops.core.bypass import can_bypass_dispatcher


class Int8Tables(Int8Step):
    """A packed layer that reads uint8 on `grid`, or float32, and answers uint8 on `to`, or float32.

    Thresholds move to the grid of the inputs; scale, bias and ReLU to that of the answers, which a
    residual of its own grid joins before they are rounded. Maps are contiguous, however they came.
    """

    def __init__(
        self,
        layer: PackedLayer,
        grid: Grid | None,
        to: Grid | None,
        relu: bool = False,
        other_grid: Grid | None = None,
    ) -> None:
        super().__init__()
        assert grid is None or layer.form == "tree"
        self.grid, self.to_grid, self.other_grid = grid, to, other_grid
        self.layer, self.spatial = layer, isinstance(layer, PackedConv2d)
        scale, bias, low = layer.scale, layer.bias, layer.low
        if relu:
            low = 0.0 if low is None else max(low, 0.0)
        self.dtype, residual_scale = torch.float32, 1.0
        unit = 1.0
        if to is not None:
            self.dtype, unit = torch.uint8, to.scale
            bias = bias + unit * to.zero_point
            low = None if low is None else low / unit + to.zero_point
        if other_grid is not None:
            residual_scale = other_grid.scale / unit
            bias = bias - other_grid.scale * other_grid.zero_point
        self.keep_numbers(-math.inf if low is None else low, residual_scale)
        self.register_buffer("scale", scale / unit)
        self.register_buffer("bias", bias / unit)
        if grid is not None:
            self.register_buffer("thresholds", layer.thresholds / grid.scale + grid.zero_point)

    def read_numbers(self, *numbers: float) -> None:
        self.low = None if numbers[0] == -math.inf else numbers[0]
        self.residual_scale = numbers[1]

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """The layer's answer to x, uint8 or float32, plus `other` of the answer's shape."""
        if x.dtype not in (torch.uint8, torch.float32):
            raise HalutError(
                f"a network with 8-bit activations takes float32 inputs, got {x.dtype}"
            )
        buffers: dict[str, Any] = self._buffers
        if self.spatial:
            x = x.contiguous()
        epilogue = (buffers["scale"], buffers["bias"], self.low, self.dtype)
        thresholds = buffers.get("thresholds") if x.dtype == torch.uint8 else None
        return self.layer.operate(x, epilogue, other, self.residual_scale, thresholds)


def reads_bytes(layer: PackedLayer, grid: Grid) -> bool:
    """Whether the layer's codes can be made of uint8: zeros around a map must be the number 0,
    and nothing be computed of the inputs before they are compared."""
    if layer.form != "tree" or layer.transform is not None:
        return False
    if not isinstance(layer, PackedConv2d) or grid.zero_point == 0:
        return True
    return not layer.geometry.same and not any(layer.geometry.padding)


class MaxPool(Int8Step):
    """Max pooling of uint8 maps whose zero is the number 0 or the least; see halut.ops.max_pool."""

    def __init__(self, pool: nn.MaxPool2d, contiguous: bool) -> None:
        super().__init__()
        size, stride, (top, left) = (
            (value, value) if isinstance(value, int) else (value[0], value[1])
            for value in (pool.kernel_size, pool.stride, pool.padding)
        )
        self.geometry = ConvGeometry(size, stride, (left, left, top, top))
        self.contiguous = contiguous
        self.keep_numbers()

    def forward(self, x: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> uint8 [B, C, OH, OW]."""
        if can_bypass_dispatcher(x):
            return dispatch.run("max_pool", x.device, x, self.geometry, self.contiguous)
        return torch.ops.halut.max_pool(x, self.geometry.numbers, self.contiguous)


class MeanPool(Int8Step):
    """The mean of every channel of uint8 maps, uint8 on the grid `to`; see halut.ops.mean_pool."""

    def __init__(self, pool: nn.Module, grid: Grid, to: Grid) -> None:
        super().__init__()
        scale = grid.scale / to.scale
        self.keep_numbers(scale, to.zero_point - grid.zero_point * scale)
        self.flatten = pool(torch.zeros(1, 1, 1, 1)).ndim == 2

    def read_numbers(self, *numbers: float) -> None:
        self.scale, self.shift = numbers

    def forward(self, x: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> uint8 [B, C, 1, 1], or [B, C] where the pooling flattens."""
        arguments = (x, self.scale / (x.shape[2] * x.shape[3]), self.shift)
        if can_bypass_dispatcher(x):
            y = dispatch.run("mean_pool", x.device, *arguments)
        else:
            y = torch.ops.halut.mean_pool(*arguments)
        return y.flatten(1) if self.flatten else y


def averages(module: Any) -> bool:
    """Whether the module takes the mean of every channel, as torch's or timm's."""
    kind = type(module).__name__
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return module.output_size in (1, (1, 1))
    if kind == "FastAdaptiveAvgPool":
        return tuple(module.dim) == (2, 3)
    return kind == "SelectAdaptivePool2d" and averages(module.pool)
