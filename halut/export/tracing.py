"""What tracers are given: a small batch whose size stays open."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ShapesCollection

from halut.sites.calls import Call

TRACED = 3
"""Samples that a network is traced with. Tracers take sizes of one for constants."""


def with_open_batch(network: nn.Module, example: Call) -> tuple[Call, Any]:
    """(call, dynamic_shapes) for torch.export: the example's first samples, and the batch left open
    in every tensor that is as long as the batch."""
    samples = example.samples

    def cut(tensor: Tensor) -> Tensor:
        if not tensor.ndim or len(tensor) != samples:
            return tensor
        return torch.cat([tensor] * -(-TRACED // samples))[:TRACED].clone()

    call, shapes, batch = example.map(cut), ShapesCollection(), Dim("batch")
    for tensor, original in zip(call.tensors, example.tensors, strict=True):
        if original.ndim and len(original) == samples:
            shapes[tensor] = {0: batch}
    return call, shapes.dynamic_shapes(network, call.args, call.kwargs)
