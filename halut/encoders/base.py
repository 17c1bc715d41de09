"""What every encoder of the table family is: rows in, codes out, and a relaxation to train it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.layers.shared_input import SharedInput
from halut.ops.blocks import Blocks
from halut.ops.lookup.columns import columns_of
from halut.ops.lookup.conv import ConvGeometry, im2col
from halut.prototypes.buckets import bucket_means
from halut.registry import Registry

encoders: Registry[type[Encoder]] = Registry("encoder")


@dataclass
class EncoderOptions:
    """Options an encoder has beyond C, K and the table's; subclass to add your own."""


class Encoder(nn.Module):
    """Maps rows [N, groups * D] to codes [N, groups * C] in [0, K).

    An encoder reads its `taps` only: `inputs = rows[:, taps]`, [N, T], is what `encode` and
    `assign` take (taps None: all columns). A convolution thus gathers the tapped inputs straight
    from the activation map and never builds the other columns of its patches.

    All state lives in parameters and buffers whose shapes depend on (blocks, K, options) alone, so
    that an encoder built empty can be loaded from a state dict.
    """

    Options: ClassVar[type[EncoderOptions]] = EncoderOptions
    estimators: ClassVar[tuple[str, ...]] = ("identity",)
    """Gradient estimators it supports, its default first."""
    unit: Tensor
    """What the layer divides rows by before the encoder learns or reads them: a power of two that
    makes them of order one, 1 where they are (halut.ops.power_of_two). Encoders need not know of it."""
    whole_maps: ClassVar[bool] = False
    """True if `answer` gives a map laid out like x, False if rows."""

    def __init__(self, blocks: Blocks, K: int, options: EncoderOptions | None = None) -> None:
        super().__init__()
        if not 2 <= K <= 256:
            raise HalutError(f"K must be in 2..256, got {K}")
        self.blocks = blocks
        self.K = K
        self.options = options if options is not None else self.Options()
        self.shared = SharedInput()
        self.register_buffer("unit", torch.ones(()))
        self._last_unit: tuple[Tensor, int, float] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last_unit": None}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}unit", torch.ones(()))  # saved before there were units
        super()._load_from_state_dict(state_dict, prefix, *args)

    def in_units(self, x: Tensor) -> Tensor:
        """x over `unit`; x itself where that is one."""
        unit = self._known_unit()
        return x if isinstance(unit, float) and unit == 1.0 else x / unit

    def times_unit(self, x: Tensor) -> Tensor:
        """x times `unit`; x itself where that is one."""
        unit = self._known_unit()
        return x if isinstance(unit, float) and unit == 1.0 else x * unit

    def _known_unit(self) -> float | Tensor:
        """`unit` as a number, read again where it may have changed; itself while tracing."""
        if torch.compiler.is_compiling() or self.unit.is_inference():
            return self.unit
        last = self._last_unit
        if last is None or last[0] is not self.unit or last[1] != self.unit._version:
            last = (self.unit, self.unit._version, float(self.unit))
            self._last_unit = last
        return last[2]

    @property
    def taps(self) -> Tensor | None:
        """Columns of the rows that are read, [T] int64, or None for all of them.

        A property, as nn.Module refuses a buffer of a name that the class already has.
        """
        return None

    def learn(
        self,
        rows: Tensor,
        seed: int = 0,
        weight: Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Fit to rows [N, groups * D] float32; return prototypes [groups * C, K, V].

        Prototypes are the mean inputs of each bucket (zero in the padding of narrow blocks).
        `weight` [groups * M_g, D] is read by encoders that measure their error at the output;
        `progress` is called with the number of codebooks just finished.
        Raises HalutError if the rows hold fewer than one row or are not finite.
        """
        raise NotImplementedError

    def initial_tau(self, rows: Tensor) -> float:
        """A temperature > 0 on the scale of this encoder's distances over rows [N, groups * D]."""
        raise NotImplementedError

    def encode(self, inputs: Tensor) -> Tensor:
        """inputs [N, T] -> codes [N, groups * C] uint8; never differentiable."""
        raise NotImplementedError

    def assign(self, inputs: Tensor, tau: Tensor) -> Tensor:
        """Soft assignment [N, groups * C, K] of inputs [N, T], differentiable, rows summing to 1.

        Its gradient stands in for the gradient of the hard one-hot codes (straight-through).
        """
        raise NotImplementedError

    def matmul(
        self, inputs: Tensor, lut: Tensor, table: Tensor, tau: Tensor, relax: float = 1.0
    ) -> Tensor:
        """The table product with this encoder's relaxed gradient, [N, groups * M_g].

        Forward: y[n, g, m] = sum_c table[g, c, codes[n, g, c], m]. Backward: dL/dE goes through
        `assign`, taken with the unquantised `lut`; dL/dlut is the scatter-add of the straight-
        through table. `relax` scales dL/dE and leaves dL/dlut as it is. Encoders with a fused
        operator override this.
        """
        from halut.encoders.relaxed import relaxed_matmul

        return relaxed_matmul(self, inputs, lut, table, tau, relax)

    def codes(self, x: Tensor, geometry: ConvGeometry | None = None) -> Tensor:
        """Codes [N, groups * C] of rows x [N, groups * D], or of a map's with its geometry.

        Encoders with an operator that reads x in place override this.
        """
        return self.encode(self.tapped(x, geometry))

    def product(
        self,
        x: Tensor,
        geometry: ConvGeometry | None,
        lut: Tensor,
        table: Tensor,
        tau: Tensor,
        relax: float = 1.0,
    ) -> Tensor:
        """`matmul` of rows or of a map; overridden where `codes` is."""
        return self.matmul(self.tapped(x, geometry), lut, table, tau, relax)

    def answer(
        self,
        x: Tensor,
        geometry: ConvGeometry | None,
        lut: Tensor,
        table: tuple[Tensor, Tensor, Tensor],
        bias: Tensor | None,
        tau: Tensor,
        relax: float = 1.0,
    ) -> Tensor:
        """scale * sum_c q + sum_c offset + bias of a table (q, scale, offset) (ops.quantise).

        The gradient is that of `product` for the float table lut ~ scale * q + offset. Returns
        rows [N, groups * M_g], or, from encoders that override it, the whole map.
        """
        q, scale, offset = table
        steps = scale.view(q.shape[0], 1, 1, -1)
        y = self.product(x, geometry, (lut - offset) / steps, q.to(lut.dtype), tau, relax)
        return y * scale + folded(offset, bias)

    def gradient(
        self,
        x: Tensor,
        geometry: ConvGeometry | None,
        grad: Tensor,
        lut: Tensor,
        tau: Tensor,
        relax: float,
        parameters: Mapping[str, Tensor],
    ) -> Sequence[Tensor]:
        """What `product` gives to x, tau and the parameters, for grad [N, groups * M_g].

        `parameters` by name as they were in the forward; returns (dx, dtau, one per parameter).
        Encoders with a fused operator override this.
        """
        from halut.encoders.relaxed import pull

        with torch.enable_grad():
            source = x.detach().requires_grad_()
            inputs = self.tapped(source, geometry)
        found = pull(self, inputs.detach(), lut, tau, grad, relax, parameters)
        return [*torch.autograd.grad(inputs, source, found[0]), *found[1:]]

    def tapped(self, x: Tensor, geometry: ConvGeometry | None = None) -> Tensor:
        """The columns this encoder reads, [N, T], of rows or of a map's im2col rows."""
        if self.taps is not None:
            return columns_of(x, self.taps, geometry)
        if geometry is None:
            return x
        g = geometry
        return im2col(x, g.kernel_size, g.stride, g.padding, g.dilation)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by optimiser role (prototypes, thresholds, ...)."""
        return {}

    def cost(self, rows: int) -> dict[str, int]:
        """For `rows` rows: compares, macs (multiply-adds) and, where there are any, adds.

        And state_bytes: what it must hold.
        """
        raise NotImplementedError


def folded(offset: Tensor, bias: Tensor | None) -> Tensor:
    """sum_c offset[g, c, m] + bias, [groups * M_g]: what is added to a product once."""
    shift = offset.sum(1).reshape(-1)
    return shift if bias is None else shift + bias


def shared_prototypes(encoder: Encoder, rows: Tensor) -> Tensor:
    """Prototypes [GC, K, V] as `learn` returns them, of an encoder that stays as it is.

    Zero where no row has the code.
    """
    empty = rows.new_zeros(encoder.blocks.total, encoder.K, encoder.blocks.V)
    return bucket_means(rows, encoder.codes(rows), encoder.blocks, empty)


def check_rows(rows: Tensor, inputs: int) -> None:
    """Raise HalutError unless rows are [N >= 1, inputs], floating and finite."""
    if rows.ndim != 2 or rows.shape[1] != inputs or rows.shape[0] == 0:
        raise HalutError(f"rows must be [N >= 1, {inputs}], got {list(rows.shape)}")
    if not bool(torch.isfinite(rows).all()):
        raise HalutError("rows hold NaN or infinite values")
