"""oneDNN's INT8 products: u8 activations, s8 weights with one scale per output.

torch.ops.onednn.qconv2d_pointwise and qlinear_pointwise are what torch's own INT8 compilation
calls; they take plain uint8 tensors and weights packed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from halut.ops.finite import refuse_not_finite


def available() -> bool:
    """True if this torch has the operators."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")


@dataclass(frozen=True)
class Grid:
    """Values that 8 unsigned bits can hold: scale * (0..255 - zero_point)."""

    scale: float
    zero_point: int = 0

    @classmethod
    def of(cls, low: float, high: float) -> Grid:
        """The finest grid that holds zero and the range low..high."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / 255 or 1.0
        return cls(scale, round(-low / scale))

    @classmethod
    def around(cls, x: Tensor) -> Grid:
        """The grid of a tensor's range."""
        return cls.of(float(x.min()), float(x.max()))

    def quantise(self, x: Tensor) -> Tensor:
        """uint8 [...]; values beyond the range saturate. Raises HalutError for NaN and infinity."""
        refuse_not_finite(x, "activations")
        q = torch.mul(x, 1 / self.scale).round_().add_(self.zero_point)
        return q.clamp_(0, 255).to(torch.uint8)

    def dequantise(self, q: Tensor) -> Tensor:
        """float32 [...]."""
        return (q.to(torch.float32) - self.zero_point) * self.scale


class Int8Product(nn.Module):
    """A Conv2d or Linear in INT8; `to` None answers float32, else uint8 on that grid.

    With `relu`, negative answers become zero. `example`: the shape of the input, for packing.
    `forward(x, other)` adds `other`, uint8 on the grid `other_grid`, and overwrites it.
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(
        self,
        exact: nn.Conv2d | nn.Linear,
        grid: Grid,
        to: Grid | None,
        example: torch.Size,
        relu: bool = False,
        other_grid: Grid | None = None,
    ) -> None:
        super().__init__()
        weight = exact.weight.detach()
        self.bias = None if exact.bias is None else exact.bias.detach()
        scales = weight.flatten(1).abs().amax(1) / 127
        scales = torch.where(scales > 0, scales, 1.0)
        q = (weight / scales.view(-1, *[1] * (weight.ndim - 1))).round().to(torch.int8)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int32))
        self.grid, self.to_grid, self.other_grid, self.relu = grid, to, other_grid, relu
        self.window: tuple[list[int], list[int], list[int], int] | None = None
        if isinstance(exact, nn.Conv2d):
            assert not isinstance(exact.padding, str)
            self.window = (
                list(exact.stride),
                list(exact.padding),
                list(exact.dilation),
                exact.groups,
            )
            packing = (q, scales, grid.scale, grid.zero_point, *self.window, list(example))
            packed = torch.ops.onednn.qconv_prepack(*packing)
        else:
            packed = torch.ops.onednn.qlinear_prepack(q, [example[:-1].numel(), example[-1]])
        self.packed = packed  # no buffer: its layout is oneDNN's own

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """uint8 maps (channels_last) or rows -> uint8 or float32."""
        weight = (self.packed, self.scales, self.zeros)
        to = self.to_grid or Grid(1.0)
        dtype = torch.float32 if self.to_grid is None else torch.uint8
        answer = (to.scale, to.zero_point, dtype)
        after = "relu" if self.relu else "none"
        grid = (self.grid.scale, self.grid.zero_point)
        if self.window is None:
            given = (x.contiguous(), *grid, *weight)
            return torch.ops.onednn.qlinear_pointwise(*given, self.bias, *answer, after, [], "")
        given = (x.contiguous(memory_format=torch.channels_last), *grid, *weight)
        if other is None:
            return torch.ops.onednn.qconv2d_pointwise(
                *given, self.bias, *self.window, *answer, after, [], ""
            )
        assert self.other_grid is not None
        other = other.contiguous(memory_format=torch.channels_last)
        added = (self.other_grid.scale, self.other_grid.zero_point, "sum", 1.0)
        return torch.ops.onednn.qconv2d_pointwise.binary(
            *given, other, self.bias, *self.window, *answer, *added, after, [], ""
        )
