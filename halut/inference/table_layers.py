"""Inference layers by look-up tables: buffers, and one operator call per forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from halut.encoders.pq import PQEncoder
from halut.encoders.transform import Permutation
from halut.encoders.tree import TreeEncoder
from halut.errors import HalutError
from halut.inference.base import InferenceLayer, absent
from halut.layers.lut import LUTLayer
from halut.ops import ConvGeometry, accumulate, pack_table
from halut.ops.core.bypass import can_bypass_dispatcher
from halut.ops.core.finite import marked
from halut.ops.epilogue import requantize, reshape_output, rows_of
from halut.ops.layer.checks import check_residual
from halut.ops.layer.encoded import window
from halut.ops.layer.kernel_cache import PreparedKernelCache

# The operators themselves: halut.ops' functions check, at every call, what is checked here once.
OPERATORS = {
    "tree": torch.ops.halut.tree_layer.default,
    "nearest": torch.ops.halut.nearest_layer.default,
}


class PackedLayer(InferenceLayer):
    """What a trained LUTLayer answers, and nothing else: no weight, no float table, no gradient.

    y = max(scale * sum_c table[c, code_c(x)] + bias, low), with `table` [G, C, K, M] int8 (float32
    for float tables and for a scale per codebook), `scale` and `bias` float32 [G * M]; the bias
    holds the zero points. `taps` and `thresholds`, or `prototypes`, make the codes; an encoder
    without an operator of its own stays a module, `encoder`. `transform` maps the inputs before, if
    there is one; a tree's taps take a permutation into themselves. `low` is None, or 0.0 for a
    ReLU.

    Buffers keep their dtypes when the network is cast (`.half()`), as the inputs may have any of
    float32, float16 and bfloat16; answers have the inputs' dtype. Raises HalutError for a layer
    with halut.average, whose biased sums exist for comparison only.
    """

    taps: Tensor
    thresholds: Tensor
    prototypes: Tensor
    table: Tensor
    packed: Tensor
    scale: Tensor
    bias: Tensor
    weight = property(absent)

    def __init__(self, layer: LUTLayer) -> None:
        super().__init__()
        self.site = layer.site
        refuse_average(layer)
        for name, value in zip(("table", "scale", "bias"), inference_table(layer), strict=True):
            self.register_buffer(name, value.contiguous())
        self.low: float | None = None
        self.encoder: nn.Module | None = None
        self.transform: nn.Module | None = None
        self.form = self._take(layer.encoder)
        self.calls = PreparedKernelCache()
        self.divisor = self._divisor()
        self.register_buffer("packed", pack_table(self.table), persistent=False)

    def _take(self, encoder: nn.Module) -> str:
        """Keep what makes the codes; the name of the way they are made."""
        if type(encoder) is TreeEncoder:
            taps = encoder.input_dims.detach().clone()
            if isinstance(encoder.transform, Permutation):
                taps = encoder.transform.order[taps]
            else:
                self.transform = encoder.transform
            self.register_buffer("taps", taps)
            thresholds = encoder.times_unit(encoder.thresholds.detach().float())
            self.register_buffer("thresholds", thresholds.clone())
            return "tree"
        if type(encoder) is PQEncoder and not encoder.by_parts:
            self.register_buffer("prototypes", encoder.prototypes.detach().float().clone())
            self.register_buffer("unit", encoder.unit.detach().clone())
            self.metric, self.transform = encoder.options.metric, encoder.transform
            return "nearest"
        self.encoder = encoder.requires_grad_(False)
        return "encoder"

    def geometry_of(self, x: Tensor) -> ConvGeometry | None:
        """The window that reads x: none, x holds rows."""
        return None

    def answer(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The layer's answer to rows, or to a map, plus a residual."""
        buffers: dict[str, Any] = self._buffers  # nn.Module's attributes cost a microsecond a piece
        return self.operate(x, (buffers["scale"], buffers["bias"], self.low, x.dtype), residual)

    def operate(
        self,
        x: Tensor,
        epilogue: tuple[Tensor, Tensor, float | None, torch.dtype],
        residual: Tensor | None = None,
        residual_scale: float = 1.0,
        thresholds: Tensor | None = None,
    ) -> Tensor:
        """The operator on scale, bias, low and dtype of any answer, and other thresholds."""
        buffers: dict[str, Any] = self._buffers
        table, added = buffers["table"], (residual, residual_scale)
        inputs: tuple[Any, ...]
        if self.form == "tree":
            node_thresholds = buffers["thresholds"] if thresholds is None else thresholds
            inputs = (buffers["taps"], node_thresholds, table, buffers["packed"], *epilogue)
        elif self.form == "nearest":
            inputs = (
                buffers["prototypes"],
                self.metric,
                self.site.groups,
                table,
                buffers["packed"],
            )
            inputs = (*inputs, *epilogue)
        if self.divisor != 1.0:
            x = x / self.divisor
        if self.transform is not None:
            x = self.transform(x)
        geometry = self.geometry_of(x)
        if self.form != "encoder" and not (x.shape[0] and can_bypass_dispatcher(x)):
            return OPERATORS[self.form](x, *inputs, *window(geometry), *added)
        if self.form != "encoder":
            return self.calls.run(f"{self.form}_layer", x, (*inputs, geometry), *added)
        encoder: Any = self.encoder
        rows = x.float() if encoder.transform is None else encoder.transform(x.float())
        codes = encoder.codes(rows, geometry)
        check_residual(residual, x, epilogue[0].shape[0], geometry)
        if residual is None:
            y = torch.ops.halut.code_layer(codes, table, buffers["packed"], *epilogue)
        else:
            sums = accumulate(codes, table)
            y = requantize(sums, *epilogue, rows_of(residual), residual_scale)
        return marked(reshape_output(y, x, geometry), x, geometry, self.site.groups)

    @torch.no_grad()
    def scale_and_shift(self, factor: Tensor, shift: Tensor) -> None:
        """Answer factor * y + shift from now on, both [G * M]."""
        self.bias.mul_(factor).add_(shift)
        self.scale.mul_(factor)

    def _divisor(self) -> float:
        """What the input is divided by before its distances are taken: its encoder's unit."""
        if self.form == "tree":
            return 1.0  # its thresholds are in the input's own size
        unit = self.unit if self.encoder is None else self.encoder.unit
        return float(unit)  # type: ignore[arg-type]

    def pack(self) -> None:
        """Lay the table out anew, for the device it is on."""
        self.calls.forget()
        self.divisor = self._divisor()
        self.packed = pack_table(self.table)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLayer:
        super()._apply(fn, recurse)
        self.pack()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.pack()

    def extra_repr(self) -> str:
        G, C, K, M = self.table.shape
        kind = str(self.table.dtype).removeprefix("torch.")
        relu = ", ReLU" if self.low == 0 else ""
        return f"{self.form}, {G * M} outputs, C={C}, K={K}, {kind}{relu}"


class PackedLinear(PackedLayer):
    """x [..., D] -> [..., M]; see PackedLayer."""

    def forward(self, input: Tensor) -> Tensor:
        """The layer's answer, in its input's dtype."""
        self.check(input)
        return self.answer(input)

    def operate(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As PackedLayer's, for any number of dimensions before the last."""
        if x.ndim == 2:
            return super().operate(x, *args, **kwargs)
        y = super().operate(x.reshape(-1, self.site.D), *args, **kwargs)
        return y.view(*x.shape[:-1], self.site.M)


class PackedConv2d(PackedLayer):
    """x [B, C_in, H, W] -> [B, M, OH, OW], in x's memory format; see PackedLayer."""

    def __init__(self, layer: LUTLayer) -> None:
        super().__init__(layer)
        g = self.site.geometry
        assert g is not None
        self.channels = self.site.D // self.site.taps * self.site.groups
        self.geometry = g

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """The layer's answer, in its input's dtype; the residual is added before a ReLU."""
        self.check(input)
        return self.answer(input, residual)

    def geometry_of(self, x: Tensor) -> ConvGeometry:
        """The window, whose padding may depend on the size of the map."""
        return self.geometry.on(x)


def refuse_average(layer: LUTLayer) -> None:
    """Raise HalutError for a layer with halut.average."""
    if layer.options.average is not None:
        raise HalutError(
            f"{layer.site.name} adds by halut.average, which has no inference kernel: its "
            "averages are biased, and for comparison; train with halut.average=null"
        )


@torch.no_grad()
def inference_table(layer: LUTLayer) -> tuple[Tensor, Tensor, Tensor]:
    """(table [G, C, K, M], scale [G * M], bias [G * M]) of a layer as its forward reads them.

    int8 entries where the sums are integer, else float32 with a scale of one.
    """
    lut = layer.full_lut().detach().float()
    bias = torch.zeros(layer.site.M, device=lut.device)
    if layer.bias is not None:
        bias += layer.bias.detach()
    quantized = layer.table(lut)
    if quantized is None:
        return lut.clone(), torch.ones_like(bias), bias
    if not quantized.integer_sums:
        return quantized.dequantize(), torch.ones_like(bias), bias
    scale = quantized.output_scale().float().clone()
    return quantized.q.to(torch.int8), scale, quantized.folded_bias() + bias


def packed(layer: LUTLayer) -> PackedLayer:
    """The packed form of one layer."""
    return PackedLinear(layer) if layer.site.geometry is None else PackedConv2d(layer)
