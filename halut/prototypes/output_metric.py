"""The metric of a block's inputs that counts as they do in the output."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.blocks import Blocks


def weight_roots(weight: Tensor | None, blocks: Blocks) -> Tensor:
    """Symmetric roots L [GC, V, V] float64 of W_c W_c' = L_c L_c', of a mean eigenvalue of one.

    W_c [V, M_g] are the rows of the weight [groups * M_g, D] that multiply block c, zero in the
    padding of narrow blocks: |(x - p) L_c| is proportional to |(x - p) W_c|. Raises HalutError if
    the weight is missing or has another shape.
    """
    groups, D = blocks.groups, blocks.D
    if weight is None or weight.ndim != 2 or weight.shape[1] != D or len(weight) % groups:
        got = None if weight is None else list(weight.shape)
        raise HalutError(f"output_metric needs the weight [{groups} * M, {D}], got {got}")
    wide = weight.detach().double().reshape(groups, -1, D).transpose(0, 1)
    split = blocks.split(wide.reshape(-1, groups * D))  # [M, GC, V]
    values, vectors = torch.linalg.eigh(torch.einsum("mcv,mcw->cvw", split, split))
    values = values.clamp(min=0)
    values = values / values.mean().clamp(min=torch.finfo(values.dtype).tiny)
    return (vectors * values.sqrt()[:, None, :]) @ vectors.transpose(1, 2)
