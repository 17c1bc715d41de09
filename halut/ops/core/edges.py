"""Edges of the autograd graph that carry no gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def with_edges(y: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """y unchanged; a backward pass visits `tensors` too, and gives them nothing.

    DistributedDataParallel waits for every parameter it was told of. One that an estimator does not
    train would make it raise in the second step; visited, it counts as done, and in one process
    its `grad` stays None.
    """
    return _Edges.apply(y, *tensors)


class _Edges(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, *tensors: Tensor) -> Tensor:
        ctx.count = len(tensors)
        return y.view_as(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, *[None] * ctx.count
