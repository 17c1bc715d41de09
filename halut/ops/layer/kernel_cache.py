"""Cache of operators prepared for the inputs they were called with.

Inputs are checked where a call is prepared, and never again: what is checked is in the key.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor

from halut.ops.core import dispatch
from halut.ops.layer.checks import check_call

CACHE_SIZE = 16
"""Kinds of inputs that are kept: a network meets one or two, and a changing batch size many."""


class PreparedKernelCache:
    """What `dispatch.prepared` gave, by shape, strides and dtype of the input and the residual.

    A call with other arguments than those prepared for, compared by identity, prepares anew. Copies
    and pickles start empty: prepared calls hold addresses.
    """

    def __init__(self) -> None:
        self.entries: dict[tuple[Any, ...], tuple[tuple[Any, ...], Callable[..., Any]]] = {}

    def __reduce__(self) -> tuple[type[PreparedKernelCache], tuple[()]]:
        return PreparedKernelCache, ()

    def forget(self) -> None:
        """Prepare everything anew: tensors may have moved."""
        self.entries.clear()

    def run(
        self,
        operation: str,
        x: Tensor,
        args: tuple[Any, ...],
        residual: Tensor | None = None,
        residual_scale: float = 1.0,
    ) -> Any:
        """`dispatch.run(operation, x.device, x, *args, residual, residual_scale)`.

        Raises HalutError, before anything runs, where the operator's own checks do.
        """
        key: tuple[Any, ...]
        key = (operation, x.shape, x.stride(), x.dtype, x.device, dispatch.forced_name())
        if residual is not None:
            key += (residual.shape, residual.dtype, residual.device)
        entry = self.entries.get(key)
        if entry is None or not all(map(operator.is_, entry[0], args)):
            if len(self.entries) >= CACHE_SIZE:
                self.entries.clear()
            check_call(operation, x, *args, residual)
            entry = (args, dispatch.prepared(operation, x.device, x, *args))
            self.entries[key] = entry
        return entry[1](x, residual, residual_scale)
