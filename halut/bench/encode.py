"""Encoding alone: hash trees over maps and rows."""

from __future__ import annotations

import copy

import torch

from halut.bench import inputs
from halut.bench.layer import forced
from halut.bench.method import Method
from halut.bench.suites import Case
from halut.ops.core import dispatch


def methods(case: Case, device: str = "cpu") -> list[Method]:
    """Ours from contiguous and channels_last inputs, and by torch's own operators."""
    layer = copy.deepcopy(inputs.learned_layer(case)).requires_grad_(False).to(device)
    x = inputs.activations(case).to(device)

    slow = forced("torch", lambda: layer.codes(x))
    reference = slow()
    found = [Method("ours", lambda: layer.codes(x), reference)]
    if x.ndim == 4:
        by_pixel = x.contiguous(memory_format=torch.channels_last)
        found.append(Method("ours_channels_last", lambda: layer.codes(by_pixel), reference))
    if dispatch.implementations(device)["tree_encode"] != "torch":
        found.append(Method("ours_torch", slow, reference))
    return found
