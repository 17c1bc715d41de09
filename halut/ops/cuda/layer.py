"""Whole layers for inference: an encoder's kernel, then the table's with the fused answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halut.ops.core import dispatch
from halut.ops.core.finite import marked
from halut.ops.cpu.view import DTYPES, NUMBERS
from halut.ops.cuda import finite, launch, nearest, tree
from halut.ops.cuda.conv import fits
from halut.ops.cuda.lookup import CHANGING, add_rows, adding, plane_of
from halut.ops.epilogue import empty_output, match_layout
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.columns import row_count


def _supports(x: Tensor, *inputs: Any) -> bool:
    geometry = next((value for value in inputs if isinstance(value, ConvGeometry)), None)
    return x.dtype in DTYPES and fits(x, geometry) and launch.available()


class Layer:
    """A table layer on inputs of x's shape, strides and dtype: its launches, packed once.

    `encoding` fills codes [N, GC]; it changes x and codes.
    """

    def __init__(
        self,
        encoding: launch.Call,
        x: Tensor,
        codes: tuple[int, int],
        table: Tensor,
        epilogue: tuple[Any, ...],
    ) -> None:
        scale, bias, low, dtype, geometry = epilogue
        self.device, self.codes = x.device, codes
        out = empty_output(x, scale.shape[0], dtype, geometry)
        self.size, self.stride, self.dtype = out.shape, out.stride(), dtype
        target = (out, scale.contiguous(), bias.contiguous(), low, plane_of(out), None, 1.0)
        add = launch.Call("accumulate", *adding(None, codes[0], table, *target), changing=CHANGING)
        self.geometry, self.groups = geometry, table.shape[0]
        self.flags: int | None = None
        calls = [encoding, add]
        if finite.marks(out, x):
            flags = finite.flags(x)
            self.flags = len(flags)
            calls += finite.calls(out, x, geometry, self.groups, flags)
        self.run = launch.bind(x.device, *calls)
        constant = [value for value in (*encoding.args, *add.args) if isinstance(value, Tensor)]
        self.tensors = [value for value in constant if value is not out]  # kernels read them

    def __call__(
        self, x: Tensor, residual: Tensor | None = None, residual_scale: float = 1.0
    ) -> Tensor:
        codes = torch.empty(self.codes, dtype=torch.uint8, device=self.device)
        out = torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)
        address, number = 0, 0
        if residual is not None:
            residual = match_layout(out, residual)
            address, number = residual.data_ptr(), NUMBERS[residual.dtype]
        source, code, answer = x.data_ptr(), codes.data_ptr(), out.data_ptr()
        encode, add = (source, code), (code, answer, address, residual_scale, number)
        if self.flags is None:
            self.run(encode, add)
            return marked(out, x, self.geometry, self.groups)
        flags = torch.empty(self.flags, dtype=torch.int32, device=self.device)
        flag = flags.data_ptr()
        self.run(encode, add, (source, flag), (source, flag, answer))
        return out


def _tree_layer(
    x: Tensor, split_dims: Tensor, thresholds: Tensor, table: Tensor, packed: Tensor, *epilogue: Any
) -> Layer:
    geometry = epilogue[-1]
    codes = row_count(x, geometry), thresholds.shape[0]
    encoding = tree.encoding(x, split_dims, thresholds, geometry, None)
    call = launch.Call("tree_encode", *encoding, changing=(0, 3))
    return Layer(call, x, codes, table, epilogue)


def _nearest_layer(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int,
    table: Tensor,
    packed: Tensor,
    *epilogue: Any,
) -> Layer:
    geometry = epilogue[-1]
    codes = row_count(x, geometry), prototypes.shape[0]
    encoding = nearest.encoding(x, prototypes, metric, groups, geometry, None)
    call = launch.Call("nearest_encode", *encoding, changing=(0, 2))
    return Layer(call, x, codes, table, epilogue)


@dispatch.implementation(
    "tree_layer", "cuda", devices=("cuda",), supports=_supports, prepare=_tree_layer
)
def tree_layer(
    x: Tensor,
    split_dims: Tensor,
    thresholds: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    geometry: ConvGeometry | None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """Codes straight from the input; sums leave as answers, in the input's memory format."""
    codes = tree.tree_encode(x, split_dims, thresholds, geometry)
    epilogue = (scale, bias, low, dtype, geometry, residual, residual_scale)
    return finite.mark(_answers(codes, x, table, *epilogue), x, geometry, table.shape[0])


@dispatch.implementation(
    "nearest_layer", "cuda", devices=("cuda",), supports=_supports, prepare=_nearest_layer
)
def nearest_layer(
    x: Tensor,
    prototypes: Tensor,
    metric: str,
    groups: int,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    geometry: ConvGeometry | None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """The same with nearest prototypes; no im2col is built."""
    codes = nearest.nearest_encode(x, prototypes, metric, groups, geometry)
    epilogue = (scale, bias, low, dtype, geometry, residual, residual_scale)
    return finite.mark(_answers(codes, x, table, *epilogue), x, geometry, groups)


def _supports_codes(codes: Tensor, *inputs: Any) -> bool:
    return launch.available()


@dispatch.implementation("code_layer", "cuda", devices=("cuda",), supports=_supports_codes)
def code_layer(
    codes: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """The table's part alone, of codes that are known."""
    return _answers(codes, codes, table, scale, bias, low, dtype, None, None, 1.0)


@dispatch.implementation("code_map", "cuda", devices=("cuda",), supports=_supports_codes)
def code_map(
    codes: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    x: Tensor,
    geometry: ConvGeometry,
) -> Tensor:
    """The table's part alone, straight into a map laid out like x."""
    return _answers(codes, x, table, scale, bias, low, dtype, geometry, None, 1.0)


def _answers(
    codes: Tensor,
    x: Tensor,
    table: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    geometry: ConvGeometry | None,
    residual: Tensor | None,
    factor: float,
) -> Tensor:
    out = empty_output(x, table.shape[0] * table.shape[3], dtype, geometry)
    if residual is not None:
        residual = match_layout(out, residual)
    scale, bias = scale.contiguous(), bias.contiguous()
    add_rows(codes, table, out, scale, bias, low, plane_of(out), residual, factor)
    return out
