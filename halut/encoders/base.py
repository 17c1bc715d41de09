"""Base class of encoders: rows to codes, and the relaxation that trains them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from halut.configs import TableConfig
from halut.encoders.lookup_table import LookupTable
from halut.encoders.transform import Transform, transform_of
from halut.errors import HalutError
from halut.ops.blocks import Blocks
from halut.ops.core.checks import check_tables, chunk_rows, compute_dtype
from halut.ops.core.finite import marked
from halut.ops.epilogue import as_map
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.accumulate import accumulate, scatter_add
from halut.ops.lookup.columns import columns_of
from halut.ops.lookup.conv import im2col
from halut.prototypes.buckets import bucket_means
from halut.registry import Registry

encoders: Registry[type[Encoder]] = Registry("encoder")

BUFFERS = 12
"""Arrays of GC * K values per row an encoder's `assign` is taken to keep for its backward."""


class Encoder(nn.Module):
    """Maps rows [N, groups * D] to codes [N, groups * C] in [0, K).

    An encoder reads its `input_dims` only: `inputs = rows[:, input_dims]`, [N, T], is what
    `encode` and `assign` take (input_dims None: all columns). A convolution thus gathers these
    inputs straight from the activation map and never builds the other columns of its patches.

    All state lives in parameters and buffers whose shapes depend on (blocks, K, options) alone, so
    that an encoder built empty can be loaded from a state dict.
    """

    Config: ClassVar[type[TableConfig]] = TableConfig
    """Its options; without any of its own, those that every operator by tables has."""
    estimators: ClassVar[tuple[str, ...]] = ("identity",)
    """Gradient estimators it supports, its default first."""
    unit: Tensor
    """What the layer divides rows by before the encoder learns or reads them: a power of two that
    makes them of order one, 1 where they are (halut.ops.power_of_two).
    Encoders need not know of it."""
    transform: Transform | None
    """What the layer maps rows by, and the weight, before the encoder learns or reads them: the
    option `transform`. Encoders need not know of it."""
    keeps_layout: ClassVar[bool] = False
    """True if `lookup` of a quantized table lays a map out in memory like x."""

    def __init__(self, blocks: Blocks, K: int, options: TableConfig | None = None) -> None:
        super().__init__()
        if not 2 <= K <= 256:
            raise HalutError(f"K must be in 2..256, got {K}")
        self.blocks = blocks
        self.K = K
        self.options = options if options is not None else self.Config(K=K)
        self.transform = transform_of(self.options.transform, blocks.of_stage)
        self.register_buffer("unit", torch.ones(()))
        self._last_unit: tuple[Tensor, int, float] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last_unit": None}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}unit", torch.ones(()))  # saved before there were units
        super()._load_from_state_dict(state_dict, prefix, *args)

    def in_units(self, x: Tensor) -> Tensor:
        """x over `unit`; x itself where that is one."""
        last = None if torch.compiler.is_compiling() else self._last_unit
        if last is not None and last[0] is self.unit and last[1] == self.unit._version:
            return x if last[2] == 1.0 else x / last[2]
        unit = self._known_unit()
        return x if isinstance(unit, float) and unit == 1.0 else x / unit

    def transformed(self, x: Tensor) -> Tensor:
        """x [N, groups * D], or the map of a 1x1 convolution, over `unit` and by `transform`."""
        x = self.in_units(x)
        return x if self.transform is None else self.transform(x)

    def transformed_weight(self, weight: Tensor) -> Tensor:
        """weight [groups * M_g, D] as it multiplies transformed inputs in their unit."""
        return weight if self.transform is None else self.transform.weight(weight)

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

    @classmethod
    def can_share(cls, options: Mapping[str, Any]) -> bool:
        """True if layers that read the same input may have one encoder of these options: not where
        codes depend on the layer's weight."""
        return not options.get("output_metric", False)

    @property
    def input_dims(self) -> Tensor | None:
        """Columns of the rows that are read, [T] int64, or None for all of them.

        A property, as nn.Module refuses a buffer of a name that the class already has.
        """
        return None

    def calibrate(
        self,
        rows: Tensor,
        *,
        seed: int = 0,
        weight: Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Learn from rows [N, groups * D] float32; return prototypes [groups * C, K, V].

        Prototypes are the mean inputs of each bucket (zero in the padding of narrow blocks).
        `seed` decides what is drawn at random; `weight` [groups * M_g, D] is read by encoders that
        measure their error at the output; `progress` is called with the number of codebooks just
        finished. Raises HalutError if there are no rows or they are not finite.
        """
        raise NotImplementedError

    def calibrate_codebooks(
        self,
        rows: Tensor,
        weight: Tensor,
        *,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        target_rows: Tensor | None = None,
    ) -> Tensor:
        """`calibrate`, then `calibrate_jointly` where the encoder has one; the prototypes."""
        prototypes = self.calibrate(rows, seed=seed, weight=weight, progress=progress)
        again = self.calibrate_jointly(rows, prototypes, weight, target_rows)
        return prototypes if again is None else again

    def calibrate_jointly(
        self, rows: Tensor, prototypes: Tensor, weight: Tensor, target_rows: Tensor | None = None
    ) -> Tensor | None:
        """Learn codebooks again, after `calibrate`, by what all of them together leave.

        `prototypes` are those of `calibrate`; the exact product to answer is that of `target_rows`
        [N, groups * D] where they are given, else of rows, with `weight` [groups * M_g, D]. Returns
        new prototypes, or None where nothing was learned, as here.
        """
        return None

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

    def codes(self, x: Tensor, geometry: ConvGeometry | None = None) -> Tensor:
        """Codes [N, groups * C] of rows x [N, groups * D], or of a map's with its geometry.

        Encoders with an operator that reads x in place override this.
        """
        return self.encode(self.gather_columns(x, geometry))

    def lookup(
        self,
        x: Tensor,
        geometry: ConvGeometry | None,
        table: LookupTable,
        tau: Tensor,
        ste_mix: float = 1.0,
    ) -> Tensor:
        """The table product of rows x [N, groups * D], or of a map's im2col rows.

        Forward: y = scale * sum_c entries[codes] + shift, see LookupTable; NaN where x is NaN or
        infinite. Backward: with dE[n, c, k] = sum_m dy[n, m] lut[c, k, m], ste_mix * dE goes
        through `assign` to x, tau and the encoder's parameters; lut gets the scatter-add of dy,
        shift its sum. Returns rows [N, groups * M_g], or a map [B, groups * M_g, OH, OW] for a map.
        """
        y = table.apply_scale(self.sums(x, geometry, *table.in_units_of_scale(), tau, ste_mix))
        return as_answer(y, x, geometry, table.entries.shape[0])

    def sums(
        self,
        x: Tensor,
        geometry: ConvGeometry | None,
        lut: Tensor,
        entries: Tensor,
        tau: Tensor,
        ste_mix: float,
    ) -> Tensor:
        """The sums of `lookup`, rows [N, groups * M_g]; overridden by encoders with an operator."""
        return relaxed_matmul(self, self.gather_columns(x, geometry), lut, entries, tau, ste_mix)

    def gradient(
        self,
        x: Tensor,
        geometry: ConvGeometry | None,
        grad: Tensor,
        lut: Tensor,
        tau: Tensor,
        ste_mix: float,
        parameters: Mapping[str, Tensor],
    ) -> Sequence[Tensor]:
        """What `lookup` gives to x, tau and the parameters, for grad [N, groups * M_g].

        `parameters` by name as they were in the forward; returns (dx, dtau, one per parameter).
        Encoders with a fused operator override this.
        """
        with torch.enable_grad():
            source = x.detach().requires_grad_()
            inputs = self.gather_columns(source, geometry)
        gradients = pull(self, inputs.detach(), lut, tau, grad, ste_mix, parameters)
        return [*torch.autograd.grad(inputs, source, gradients[0]), *gradients[1:]]

    def gather_columns(self, x: Tensor, geometry: ConvGeometry | None = None) -> Tensor:
        """The columns this encoder reads, [N, T], of rows or of a map's im2col rows."""
        if self.input_dims is not None:
            return columns_of(x, self.input_dims, geometry)
        if geometry is None:
            return x
        g = geometry
        return im2col(x, g.kernel_size, g.stride, g.padding, g.dilation)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by optimizer role (prototypes, thresholds, ...)."""
        return {}

    def cost(self, rows: int) -> dict[str, int]:
        """For `rows` rows: compares, macs (multiply-adds) and, where there are any, adds.

        And state_bytes: what it must hold.
        """
        raise NotImplementedError


def as_answer(y: Tensor, x: Tensor, geometry: ConvGeometry | None, groups: int) -> Tensor:
    """Rows y [N, groups * M_g] as the answer to x: a map for a map, NaN where x is not finite."""
    if geometry is not None:
        y = as_map(y, x, geometry)
    return marked(y, x, geometry, groups)


def shared_prototypes(encoder: Encoder, rows: Tensor) -> Tensor:
    """Prototypes [GC, K, V] as `calibrate` returns them, of an encoder that stays as it is.

    Zero where no row has the code.
    """
    empty = rows.new_zeros(encoder.blocks.total, encoder.K, encoder.blocks.V)
    return bucket_means(rows, encoder.codes(rows), encoder.blocks, empty)


# -- the relaxed gradient of any encoder ----------------------------------------------------------


def relaxed_matmul(
    encoder: Encoder,
    inputs: Tensor,
    lut: Tensor,
    table: Tensor,
    tau: Tensor,
    ste_mix: float = 1.0,
) -> Tensor:
    """accumulate(encoder.encode(inputs), table), [N, G * M], with the gradient of assign.

    inputs [N, T], lut and table [G, C, K, M], tau as `encoder.assign` takes it. Backward, with
    dE[n, c, k] = sum_m grad[n, m] lut[c, k, m]: lut gets scatter_add(codes, grad), the table
    nothing; inputs, tau and the encoder's parameters get ste_mix * dE pulled through
    `encoder.assign`, which is recomputed chunk by chunk. Raises HalutError on shapes that do not
    fit.
    """
    codes = encoder.encode(inputs.detach())
    check_tables(lut, table, codes.shape[1])
    names = [name for name, _ in encoder.named_parameters()]
    arguments = (encoder, names, codes, inputs, lut, table, tau, ste_mix)
    return _RelaxedMatmul.apply(*arguments, *encoder.parameters())


class _RelaxedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        encoder: Encoder,
        names: Sequence[str],
        codes: Tensor,
        inputs: tuple[Any, ...],
        lut: Tensor,
        table: Tensor,
        tau: Tensor,
        ste_mix: float,
        *parameters: Any,
    ) -> Tensor:
        ctx.encoder, ctx.names, ctx.ste_mix = encoder, names, ste_mix
        ctx.save_for_backward(codes, inputs, lut, tau, *parameters)
        return accumulate(codes, table)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        codes, inputs, lut, tau, *parameters = ctx.saved_tensors
        _, _, _, need_inputs, need_lut, _, need_tau, _, *need_parameters = ctx.needs_input_grad
        dlut = None
        if need_lut:
            dlut = scatter_add(codes, grad, lut.shape[0], lut.shape[2]).to(lut.dtype)
        if not ctx.ste_mix or not (need_inputs or need_tau or any(need_parameters)):
            return None, None, None, None, dlut, *[None] * (3 + len(parameters))
        by_name = dict(zip(ctx.names, parameters, strict=True))
        dinputs, dtau, *rest = pull(ctx.encoder, inputs, lut, tau, grad, ctx.ste_mix, by_name)
        results = [
            value if need else None for value, need in zip(rest, need_parameters, strict=True)
        ]
        return (
            *(None, None, None, dinputs if need_inputs else None, dlut),
            *(None, dtau if need_tau else None, None, *results),
        )


class _Assign(nn.Module):
    """`assign` of an encoder as a module's forward, so that it can be called with parameters."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor, tau: Tensor) -> Tensor:
        return self.encoder.assign(inputs, tau)


def pull(
    encoder: Encoder,
    inputs: Tensor,
    lut: Tensor,
    tau: Tensor,
    grad: Tensor,
    ste_mix: float,
    parameters: Mapping[str, Tensor],
) -> list[Tensor]:
    """Gradients of inputs, tau and the encoder's parameters: ste_mix * dE through encoder.assign.

    `parameters` are what the forward was computed with, by name. They are given, not read from the
    encoder: where a checkpoint recomputes them they are other tensors than its own.
    """
    G, C, K, M = lut.shape
    dtype = compute_dtype(lut.dtype)
    entries = (lut.detach().to(dtype) * ste_mix).view(G, C * K, M)
    tau = tau.detach().requires_grad_()
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    assign = _Assign(encoder)
    by_name = {f"encoder.{name}": value for name, value in leaves.items()}
    dinputs = torch.empty_like(inputs)
    sums = [torch.zeros_like(value) for value in (tau, *leaves.values())]
    step = chunk_rows(BUFFERS * G * C * K * entries.element_size(), inputs.device)
    for start in range(0, inputs.shape[0], step):
        rows = slice(start, start + step)
        columns = grad[rows].to(dtype).view(-1, G, M).transpose(0, 1)
        products = torch.bmm(columns, entries.transpose(1, 2))  # [G, n, C * K]
        part = inputs[rows].detach().requires_grad_()
        with torch.enable_grad():
            soft = functional_call(assign, by_name, (part, tau))
        products = products.transpose(0, 1).reshape(soft.shape).to(soft.dtype)
        dpart, *rest = torch.autograd.grad(
            soft, [part, tau, *leaves.values()], products, allow_unused=True
        )
        dinputs[rows] = 0 if dpart is None else dpart
        for total, value in zip(sums, rest, strict=True):
            if value is not None:
                total += value
    return [dinputs, *sums]
