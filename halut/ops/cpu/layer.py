"""Inference layers by the compiled kernels (kernels/cpu/ops/*_layer.cpp, few_rows.cpp)."""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from halut import _kernels  # type: ignore[attr-defined]
from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.core.finite import dense, marked
from halut.ops.cpu.view import NUMBERS, view
from halut.ops.epilogue import empty_output, match_layout
from halut.ops.geometry import ConvGeometry

SMALL_BATCH_ROWS = 16
"""Rows below which adding table rows as they lie beats byte permutes."""

HUGE_PAGE_BYTES = 2 << 20
"""Bytes of a huge page: large tables are laid out on them, their pages are walked in order."""

NOT_FINITE = 8
"""Added to a kernel's status: the input holds NaN or an infinity."""

ERRORS = {
    2: "split_dims must be columns of the rows: 0 up to the input's channels times the window",
    3: "not enough memory for the codes of one block",
}


def shuffled(codes: Tensor, table: Tensor, *epilogue: Any) -> bool:
    """int8 tables of at most 16 prototypes and not of single outputs (depthwise ones)."""
    return _shuffles(table.dtype, table.shape)


def _supports(
    x: Tensor, split_dims: Tensor, thresholds: Tensor, table: Tensor, *epilogue: Any
) -> bool:
    return _shuffles(table.dtype, table.shape)


@functools.lru_cache(maxsize=1024)
def _shuffles(dtype: torch.dtype, shape: torch.Size) -> bool:
    _, C, K, M = shape
    return dtype == torch.int8 and K <= 16 and (M >= 4 or C >= 4)


class _Form(NamedTuple):
    """What inputs of one shape, strides and dtype make of a layer's call."""

    size: torch.Size
    stride: tuple[int, ...]
    contiguous: bool
    rows: int
    fields: tuple[int, ...]
    """The fields of View after the address."""
    values: int
    """Values that the kernel looks at for NaN and infinity, 0 where it cannot."""
    looks: bool
    """Whether the input has to be looked at afterwards."""


@functools.lru_cache(maxsize=1024)
def _form(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    geometry: ConvGeometry | None,
    outputs: int,
    out_dtype: torch.dtype,
) -> _Form:
    x = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    out = empty_output(x, outputs, out_dtype, geometry)
    contiguous, rows = out.ndim == 4 and out.is_contiguous(), out.numel() // outputs
    values = x.numel() if dtype.is_floating_point and dense(x) else 0
    looks = dtype.is_floating_point and not dense(x)
    fields = view(x, geometry)[1:]
    return _Form(out.shape, out.stride(), contiguous, rows, fields, values, looks)


@dispatch.implementation("pack_table", "cpu", devices=("cpu",))
def pack_table(table: Tensor) -> Tensor:
    """The layout of the level in use (kernels/cpu/packed.h); empty where no kernel reads it."""
    G, C, K, M = table.shape
    if table.dtype != torch.int8 or K > 16:
        return table.new_empty(0, dtype=torch.uint8)
    size = _kernels.packed_bytes(G, C, M)
    packed = _aligned(size)
    dense = table.contiguous()  # held until the kernel has read it
    _kernels.pack_table(dense.data_ptr(), packed.data_ptr(), G, C, K, M, size)
    return packed


def _aligned(size: int) -> Tensor:
    """Bytes, on huge pages if there are many: memory that was in use before cannot move to them."""
    if size < HUGE_PAGE_BYTES // 2 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8, device="cpu")
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # a shared map has no huge pages
    fresh = mmap.mmap(
        -1, -(-size // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES + HUGE_PAGE_BYTES, flags=private
    )  # the tensor holds it
    fresh.madvise(mmap.MADV_HUGEPAGE)
    store = torch.frombuffer(fresh, dtype=torch.uint8)
    first = -store.data_ptr() % HUGE_PAGE_BYTES
    return store[first : first + size]


class TreeLayer:
    """`tree_layer` on inputs of x's shape, strides and dtype, tables as they are now."""

    def __init__(
        self,
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
    ) -> None:
        G, C, K, M = table.shape
        form = _form(x.shape, x.stride(), x.dtype, geometry, G * M, dtype)
        self.form, self.dtype, self.geometry = form, dtype, geometry
        self.table, self.small_batch = table.contiguous(), form.rows < SMALL_BATCH_ROWS
        tensors = (
            split_dims.contiguous(),
            thresholds.contiguous(),
            scale.contiguous(),
            bias.contiguous(),
        )
        self.inputs = tensors  # while this is
        addresses = [tensor.data_ptr() for tensor in tensors]
        target = _target_fields(dtype, form.contiguous, addresses[2], addresses[3], low)
        encoder_fields = ((x.data_ptr(), *form.fields), *addresses[:2])
        self._fields = (encoder_fields, (target, (G, C, K, M), self.small_batch, form.values))
        self._read(self.table if self.small_batch else packed)

    def _read(self, table: Tensor) -> None:
        (view, split_dims, thresholds), rest = self._fields
        G, C, _, M = self.table.shape
        if not self.small_batch and table.numel() != _kernels.packed_bytes(G, C, M):
            table = pack_table(self.table)
        self.packed = table
        self.run = _kernels.TreeLayer(view, split_dims, thresholds, table.data_ptr(), *rest)

    def __call__(
        self, x: Tensor, residual: Tensor | None = None, residual_scale: float = 1.0
    ) -> Tensor:
        form = self.form
        out = torch.empty_strided(form.size, form.stride, dtype=self.dtype, device="cpu")
        added, _held = _added(residual, out)
        where = (x.data_ptr(), out.data_ptr(), *added, residual_scale, torch.get_num_threads())
        status = self.run(*where)
        if status & ~NOT_FINITE == 1:  # packed for another level than is in use now
            self._read(pack_table(self.table))
            status = self.run(*where)
        _check(status & ~NOT_FINITE)
        if status or form.looks:
            return marked(out, x, self.geometry, self.table.shape[0])
        return out


@dispatch.implementation(
    "tree_layer", "cpu", devices=("cpu",), supports=_supports, prepare=TreeLayer
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
    factor: float = 1.0,
) -> Tensor:
    """Straight from the input to scaled answers; the packed table is made if it is not given.

    Without a residual all is done here: a training step calls this once a layer, with a table that
    is new every time.
    """
    G, C, K, M = sizes = table.shape
    form = _form(x.shape, x.stride(), x.dtype, geometry, G * M, dtype)
    if form.rows < SMALL_BATCH_ROWS or residual is not None or packed.numel():
        arguments = (split_dims, thresholds, table, packed, scale, bias, low, dtype, geometry)
        return TreeLayer(x, *arguments)(x, residual, factor)
    size = _kernels.packed_bytes(G, C, M)
    packed = (
        _aligned(size) if size >= HUGE_PAGE_BYTES // 2 else torch.empty(size, dtype=torch.uint8)
    )
    split_dims, thresholds, table = (
        split_dims.contiguous(),
        thresholds.contiguous(),
        table.contiguous(),
    )
    scale, bias = scale.contiguous(), bias.contiguous()
    _kernels.pack_table(table.data_ptr(), packed.data_ptr(), G, C, K, M, size)
    least = float("-inf") if low is None else low
    target = (
        0,
        NUMBERS[dtype],
        form.contiguous,
        scale.data_ptr(),
        bias.data_ptr(),
        least,
        0,
        0,
        1.0,
    )
    run = _kernels.TreeLayer(
        *((x.data_ptr(), *form.fields), split_dims.data_ptr(), thresholds.data_ptr()),
        *(packed.data_ptr(), target, tuple(sizes), False, form.values),
    )
    out = torch.empty_strided(form.size, form.stride, dtype=dtype, device="cpu")
    status = run(x.data_ptr(), out.data_ptr(), 0, 0, 1.0, torch.get_num_threads())
    if status & ~NOT_FINITE:
        _check(status & ~NOT_FINITE)
    if status or form.looks:
        return marked(out, x, geometry, G)
    return out


def _target_fields(
    dtype: torch.dtype,
    contiguous: bool,
    scale: int,
    bias: int,
    low: float | None,
    address: int = 0,
    added: tuple[int, int] = (0, 0),
    factor: float = 1.0,
) -> tuple[Any, ...]:
    """The fields of Target in kernels/cpu/view.h; a TreeLayer gets address and residual later."""
    least = float("-inf") if low is None else low
    return (address, NUMBERS[dtype], contiguous, scale, bias, least, *added, factor)


def _target(
    out: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> tuple[tuple, tuple[Tensor, ...]]:
    """(the fields of Target in kernels/cpu/view.h, tensors to hold while the kernel runs)."""
    contiguous = out.ndim == 4 and out.is_contiguous()
    scale, bias = scale.contiguous(), bias.contiguous()
    added, keep_alive = _added(residual, out)
    first, second = scale.data_ptr(), bias.data_ptr()
    fields = _target_fields(
        out.dtype, contiguous, first, second, low, out.data_ptr(), added, residual_scale
    )
    return fields, (scale, bias, *keep_alive)


def _added(residual: Tensor | None, out: Tensor) -> tuple[tuple[int, int], tuple[Tensor, ...]]:
    """(the residual's address and dtype, tensors to hold while the kernel runs)."""
    if residual is None:
        return (0, 0), ()
    residual = match_layout(out, residual)
    return (residual.data_ptr(), NUMBERS[residual.dtype]), (residual,)


def _with_packed(run: Callable[[Tensor], int], table: Tensor, packed: Tensor) -> None:
    """Run with the packed table, made here if it was not given or was made for another level."""
    G, C, _, M = table.shape
    status = run(packed) if packed.numel() == _kernels.packed_bytes(G, C, M) else 1
    _check(run(pack_table(table)) if status == 1 else status)


def _check(status: int) -> None:
    if status:
        raise HalutError(ERRORS[status])


def sums_of_codes(
    codes: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    out: Tensor,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """Fill `out`: rows [N, G * M], int32 for the sums as they are, or a map [B, G * M, OH, OW]."""
    G, C, K, M = table.shape
    contiguous = out.ndim == 4 and out.is_contiguous()
    plane = out.shape[2] * out.shape[3] if contiguous else 1
    codes = codes.contiguous()
    target, keep_alive = _target(out, scale, bias, low, residual, residual_scale)
    sizes = (target, codes.shape[0], plane, G, C, K, M, torch.get_num_threads())

    def answer(packed: Tensor) -> int:
        return _kernels.code_layer(codes.data_ptr(), packed.data_ptr(), *sizes)

    _with_packed(answer, table, packed)
    del keep_alive  # until here
    return out


@dispatch.implementation("code_layer", "cpu", devices=("cpu",), supports=shuffled)
def code_layer(
    codes: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """The second half of `tree_layer`: codes are laid out anew for the level's shuffle."""
    out = torch.empty(codes.shape[0], scale.shape[0], dtype=dtype, device="cpu")
    return sums_of_codes(codes, table, packed, scale, bias, low, out)


@dispatch.implementation("code_map", "cpu", devices=("cpu",), supports=shuffled)
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
    """`code_layer` straight into a map laid out like x."""
    out = empty_output(x, scale.shape[0], dtype, geometry)
    return sums_of_codes(codes, table, packed, scale, bias, low, out)
