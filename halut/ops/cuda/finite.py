"""NaN answers of NaN and infinite inputs by kernels/cuda/not_finite.cu (halut.ops.core.finite)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from halut.ops.core.finite import dense, marked
from halut.ops.cpu.view import NUMBERS, view
from halut.ops.cuda import launch
from halut.ops.cuda.lookup import NAMES, plane_of
from halut.ops.cuda.tree import FLOATS
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.columns import row_count

THREADS = 256

Call = tuple[str, tuple[int, int], tuple[Any, ...]]
"""(kernel, grid, arguments)"""


def mark(y: Tensor, x: Tensor, geometry: ConvGeometry | None, groups: int) -> Tensor:
    """`marked(y, x, geometry, groups)` for a y that nobody else holds: filled in place."""
    if not marks(y, x):
        return marked(y, x, geometry, groups)
    for kernel, grid, args in marking(y, x, geometry, groups, flags(x)):
        launch.launch("not_finite", kernel, x.device, grid, *args)
    return y


def marks(y: Tensor, x: Tensor) -> bool:
    """True if the kernels take such tensors."""
    return x.dtype in FLOATS and y.dtype in FLOATS and x.numel() > 0 and dense(x)


def marking(
    y: Tensor, x: Tensor, geometry: ConvGeometry | None, groups: int, flags: Tensor
) -> tuple[Call, Call]:
    """The two launches: x is looked at (arguments 0 and 2: x, flags), and y [.., groups * M] marked
    (arguments 0, 1 and 3: x, flags, y)."""
    count, blocks = x.numel(), len(flags)
    look = (x, count, flags, blocks)
    N, M = row_count(x, geometry), y.shape[1] // groups
    most = 8 * launch.processors(x.device)
    grid = min(-(-N * groups // (THREADS // 32)), most)
    shape = (plane_of(y), N, groups, M, grid * (THREADS // 32))
    arguments = (view(x, geometry), flags, blocks, y, np.int32(NUMBERS[y.dtype]), *shape)
    name = NAMES[x.dtype]
    return (
        (f"not_finite_look_{name}", (blocks, THREADS), look),
        (f"not_finite_mark_{name}", (grid, THREADS), arguments),
    )


def calls(
    y: Tensor, x: Tensor, geometry: ConvGeometry | None, groups: int, flags: Tensor
) -> list[launch.Call]:
    """`marking` as calls to bind; they change (x, flags) and (x, flags, y)."""
    look, fill = marking(y, x, geometry, groups, flags)
    return [
        launch.Call("not_finite", *look, changing=(0, 2)),
        launch.Call("not_finite", *fill, changing=(0, 1, 3)),
    ]


def flags(x: Tensor) -> Tensor:
    """What `marking` notes: one number for every block that looks at x."""
    blocks = min(-(-x.numel() // (16 * THREADS)), 2 * launch.processors(x.device))
    return torch.empty(blocks, dtype=torch.int32, device=x.device)
