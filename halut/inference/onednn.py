"""oneDNN's INT8 products: u8 activations, s8 weights with one scale per output.

torch.ops.onednn.qconv2d_pointwise and qlinear_pointwise are what torch's own INT8 compilation
calls; they take plain uint8 tensors and weights packed once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.ops.core.finite import refuse_not_finite


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

    def quantize(self, x: Tensor) -> Tensor:
        """uint8 [...]; values beyond the range saturate. Raises HalutError for NaN and infinity."""
        refuse_not_finite(x, "activations")
        q = torch.mul(x, 1 / self.scale).round_().add_(self.zero_point)
        return q.clamp_(0, 255).to(torch.uint8)

    def dequantize(self, q: Tensor) -> Tensor:
        """float32 [...]."""
        return (q.to(torch.float32) - self.zero_point) * self.scale


class Int8Step(nn.Module):
    """A step of a network with 8-bit activations; tensors keep their dtypes when that is cast.

    `numbers`, float64, are what is read as Python's numbers: `read_numbers` does, also after a
    state dict is loaded.
    """

    numbers: Tensor

    def keep_numbers(self, *numbers: float) -> None:
        """Make them part of the state dict, and read them."""
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.float64, device="cpu"))
        self.read_numbers(*numbers)

    def read_numbers(self, *numbers: float) -> None:
        """Take the numbers as they are now."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.read_numbers(*self.numbers.tolist())

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def convert(value: Tensor) -> Tensor:
            new = fn(value)
            return new if new.dtype == value.dtype else value.to(new.device)

        return super()._apply(convert, recurse)


class Quantize(Int8Step):
    """float32 -> uint8 on a grid."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.keep_numbers(grid.scale, grid.zero_point)

    def read_numbers(self, *numbers: float) -> None:
        self.grid = Grid(numbers[0], int(numbers[1]))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise HalutError(
                f"a network with 8-bit activations takes float32 inputs, got {x.dtype}"
            )
        return self.grid.quantize(x)


class Dequantize(Quantize):
    """uint8 on a grid -> float32."""

    def forward(self, x: Tensor) -> Tensor:
        return self.grid.dequantize(x)


def quantized_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(q int8 [M, ...], scales [M]) of a weight [M, ...] ~ scales * q, q in -127..127."""
    scales = weight.flatten(1).abs().amax(1) / 127
    scales = torch.where(scales > 0, scales, 1.0)
    q = (weight / scales.view(-1, *[1] * (weight.ndim - 1))).round().to(torch.int8)
    return q, scales


class Int8Product(Int8Step):
    """A Conv2d or Linear in INT8; `to` None answers float32, else uint8 on that grid.

    With `relu`, negative answers become zero. `example`: the shape of the input, for packing.
    `forward(x, other)` adds `other`, uint8 on the grid `other_grid`, and overwrites it.
    codes: the weight, int8; `packed` is the same in oneDNN's own layout, and no buffer.
    """

    codes: Tensor
    packed: Tensor
    scales: Tensor
    zeros: Tensor
    bias: Tensor | None

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
        self.register_buffer("bias", None if exact.bias is None else exact.bias.detach().clone())
        q, scales = quantized_weight(weight)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int32))
        self.register_buffer("codes", q)
        self.relu, self.example = relu, list(example)
        self.answers_bytes, self.adds = to is not None, other_grid is not None
        self.window: tuple[list[int], list[int], list[int], int] | None = None
        if isinstance(exact, nn.Conv2d):
            assert not isinstance(exact.padding, str)
            self.window = (
                list(exact.stride),
                list(exact.padding),
                list(exact.dilation),
                exact.groups,
            )
        grids = (grid, to or Grid(1.0), other_grid or Grid(1.0))
        self.keep_numbers(*(n for one in grids for n in (one.scale, one.zero_point)))

    def read_numbers(self, *numbers: float) -> None:
        grids = [Grid(numbers[i], int(numbers[i + 1])) for i in (0, 2, 4)]
        self.grid, to, other = grids
        self.to_grid = to if self.answers_bytes else None
        self.other_grid = other if self.adds else None
        self.pack()

    def pack(self) -> None:
        """Lay the weight out as oneDNN wants it."""
        grid, example = self.grid, self.example
        if self.window is None:
            rows = [math.prod(example[:-1]), example[-1]]
            self.packed = torch.ops.onednn.qlinear_prepack(self.codes, rows)
        else:
            packing = (self.codes, self.scales, grid.scale, grid.zero_point, *self.window, example)
            self.packed = torch.ops.onednn.qconv_prepack(*packing)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.pack()

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """uint8 maps (channels_last) or rows -> uint8 or float32."""
        weight = (self.packed, self.scales, self.zeros)
        to = self.to_grid or Grid(1.0)
        dtype = torch.float32 if self.to_grid is None else torch.uint8
        output_format = (to.scale, to.zero_point, dtype)
        after = "relu" if self.relu else "none"
        grid = (self.grid.scale, self.grid.zero_point)
        if self.window is None:
            arguments = (x.reshape(-1, x.shape[-1]).contiguous(), *grid, *weight)
            y = torch.ops.onednn.qlinear_pointwise(
                *arguments, self.bias, *output_format, after, [], ""
            )
            return y.view(*x.shape[:-1], y.shape[-1])
        arguments = (x.contiguous(memory_format=torch.channels_last), *grid, *weight)
        if other is None:
            return torch.ops.onednn.qconv2d_pointwise(
                *arguments, self.bias, *self.window, *output_format, after, [], ""
            )
        assert self.other_grid is not None
        other = other.contiguous(memory_format=torch.channels_last)
        added = (self.other_grid.scale, self.other_grid.zero_point, "sum", 1.0)
        return torch.ops.onednn.qconv2d_pointwise.binary(
            *arguments, other, self.bias, *self.window, *output_format, *added, after, [], ""
        )
