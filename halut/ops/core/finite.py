"""Propagation of NaN and infinities from inputs to the outputs of encoded products.

Codes are numbers whatever was encoded. Without a rule of their own tables and codecs would make a
plausible answer of an input that is none; with it a product is NaN wherever one of its inputs is
NaN or infinite: all outputs of the row, of its group, as in the exact product (which answers
infinity where it does not answer NaN).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _get_tracing_state, _len_torch_dispatch_stack
from torch._C._functorch import peek_interpreter_stack

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.geometry import ConvGeometry

PLAIN = (Tensor, torch.nn.Parameter)


def all_finite(x: Tensor) -> bool:
    """True if x, a floating tensor, holds neither NaN nor infinity. Waits for the device."""
    return bool(dispatch.run("all_finite", x.device, x.detach()))


def marked(y: Tensor, x: Tensor, geometry: ConvGeometry | None = None, groups: int = 1) -> Tensor:
    """y, NaN where one of the inputs of its product is NaN or infinite; else the very tensor.

    x: rows [.., groups * D] of y [.., groups * M], or with a geometry the map [B, Cin, H, W] of y
    [B, groups * M, OH, OW]; outputs are group-major. On a CPU the price is a look at x; where x
    cannot be looked at (a compiler traces, a GPU would be waited for) it is a sum over x and an
    addition to y. Raises HalutError if such an x meets integer answers, which have no NaN.
    """
    if not x.is_floating_point() or _known_finite(x):
        return y
    x = x.detach()
    spoiled = _rows(x, groups) if geometry is None else _map(x, geometry, groups)
    if not y.is_floating_point():
        _require(spoiled == 0, f"an input is NaN or infinite, which answers of {y.dtype} cannot be")
        return y
    spoiled = spoiled.to(y.dtype)
    if geometry is None:
        return (y.unflatten(-1, (groups, -1)) + spoiled.unsqueeze(-1)).flatten(-2)
    return (y.unflatten(1, (groups, -1)) + spoiled.unsqueeze(2)).flatten(1, 2)


def dense(x: Tensor) -> bool:
    """True if the values of x lie one after the other, in whatever order."""
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def kept_finite(q: Tensor, x: Tensor) -> Tensor:
    """q, NaN where x, of the same shape, is NaN or infinite: for values that are multiplied yet."""
    if not x.is_floating_point() or _known_finite(x):
        return q
    return q + (x.detach() * 0).to(q.dtype)


def refuse_not_finite(x: Tensor, what: str) -> None:
    """Raise HalutError if x holds NaN or infinity; while a compiler traces, RuntimeError later."""
    if not _known_finite(x):
        _require(x.abs() < float("inf"), f"{what} hold NaN or infinite values, which 8 bits cannot")


def _require(right: Tensor, message: str) -> None:
    if not _visible(right):
        torch._assert_async(right.all(), message)
    elif not bool(right.all()):
        raise HalutError(message)


def _known_finite(x: Tensor) -> bool:
    return _visible(x) and all_finite(x)


def _visible(x: Tensor) -> bool:
    """True if the values of x can be looked at here and now."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in PLAIN
        and x.is_cpu
        and not _len_torch_dispatch_stack()
        and peek_interpreter_stack() is None
        and _get_tracing_state() is None
    )


def _rows(x: Tensor, groups: int) -> Tensor:
    """0 or NaN [.., groups] of rows [.., groups * D]."""
    return torch.linalg.vector_norm(x.unflatten(-1, (groups, -1)).float(), float("inf"), -1) * 0


def _map(x: Tensor, g: ConvGeometry, groups: int) -> Tensor:
    """0 or NaN [B, groups, OH, OW] of a map [B, Cin, H, W]: the largest in reach of each window."""
    largest = torch.linalg.vector_norm(x.unflatten(1, (groups, -1)).float(), float("inf"), 2) * 0
    padded = F.pad(largest, g.padding)
    return F.max_pool2d(padded, g.kernel_size, g.stride, dilation=g.dilation)


@dispatch.implementation("all_finite", "torch")
def all_finite_torch(x: Tensor) -> Tensor:
    """A scalar bool tensor."""
    return torch.isfinite(x).all()
