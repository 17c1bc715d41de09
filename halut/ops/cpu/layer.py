"""Inference layers by the compiled kernels (kernels/cpu/ops/*_layer.cpp, few_rows.cpp)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from halut import _kernels  # type: ignore[attr-defined]
from halut.errors import HalutError
from halut.ops import dispatch
from halut.ops.conv import ConvGeometry
from halut.ops.cpu.view import DTYPES, view
from halut.ops.layer import answer_like

FEW = 16
"""Rows below which adding table rows as they lie beats byte permutes."""

HUGE = 2 << 20
"""Bytes of a huge page: large tables are laid out on them, their pages are walked in order."""

ERRORS = {
    2: "taps must be columns of the rows: 0 up to the input's channels times the window",
    3: "not enough memory for the codes of one block",
}


def shuffled(codes: Tensor, table: Tensor, *answer) -> bool:
    """int8 tables of at most 16 prototypes and not of single outputs (depthwise ones)."""
    _, C, K, M = table.shape
    return table.dtype == torch.int8 and K <= 16 and (M >= 4 or C >= 4)


def _supports(x: Tensor, taps: Tensor, thresholds: Tensor, table: Tensor, *answer) -> bool:
    return x.dtype in DTYPES and shuffled(x, table)


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
    """Uninitialised bytes, on huge pages if there are many."""
    if size < HUGE:
        return torch.empty(size, dtype=torch.uint8)
    store = torch.empty(size + HUGE, dtype=torch.uint8)
    first = -store.data_ptr() % HUGE
    _kernels.advise_huge_pages(store.data_ptr() + first, size)
    return store[first : first + size]


@dispatch.implementation("tree_layer", "cpu", devices=("cpu",), supports=_supports)
def tree_layer(
    x: Tensor,
    taps: Tensor,
    thresholds: Tensor,
    table: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    low: float | None,
    dtype: torch.dtype,
    geometry: ConvGeometry | None,
) -> Tensor:
    """Straight from the input to scaled answers; the packed table is made if it is not given."""
    G, C, K, M = table.shape
    out = answer_like(x, G * M, dtype, geometry)
    by_plane = out.ndim == 4 and out.is_contiguous()
    few = out.numel() // (G * M) < FEW
    run = _kernels.few_rows_layer if few else _kernels.tree_layer
    kept = taps.contiguous(), thresholds.contiguous(), scale.contiguous(), bias.contiguous()
    fields = view(x, geometry)

    def answer(table: Tensor) -> int:
        return run(
            *(fields, kept[0].data_ptr(), kept[1].data_ptr(), table.data_ptr()),
            *(kept[2].data_ptr(), kept[3].data_ptr(), float("-inf") if low is None else low),
            *(out.data_ptr(), DTYPES[dtype], by_plane, G, C, K, M, torch.get_num_threads()),
        )

    if few:
        _check(answer(table.contiguous()))
    else:
        _with_packed(answer, table, packed)
    return out


def _with_packed(answer: Callable[[Tensor], int], table: Tensor, packed: Tensor) -> None:
    """Run with the packed table, made here if it was not given or was made for another level."""
    G, C, _, M = table.shape
    status = answer(packed) if packed.numel() == _kernels.packed_bytes(G, C, M) else 1
    _check(answer(pack_table(table)) if status == 1 else status)


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
) -> Tensor:
    """Fill `out`: rows [N, G * M], int32 for the sums as they are, or a map [B, G * M, OH, OW]."""
    G, C, K, M = table.shape
    by_plane = out.ndim == 4 and out.is_contiguous()
    plane = out.shape[2] * out.shape[3] if by_plane else 1
    kind = 4 if out.dtype == torch.int32 else DTYPES[out.dtype]
    kept = codes.contiguous(), scale.contiguous(), bias.contiguous()

    def answer(table: Tensor) -> int:
        return _kernels.code_layer(
            *(kept[0].data_ptr(), table.data_ptr(), kept[1].data_ptr(), kept[2].data_ptr()),
            *(float("-inf") if low is None else low, out.data_ptr(), kind, by_plane),
            *(codes.shape[0], plane, G, C, K, M, torch.get_num_threads()),
        )

    _with_packed(answer, table, packed)
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
    out = torch.empty(codes.shape[0], scale.shape[0], dtype=dtype)
    return sums_of_codes(codes, table, packed, scale, bias, low, out)
