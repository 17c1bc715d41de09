"""The metric of a block's inputs that counts as they do in the output."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.ops.blocks import Blocks
from halut.prototypes.ridge import grouped_weight


def weight_roots(weight: Tensor, blocks: Blocks) -> Tensor:
    """Symmetric roots L [GC, V, V] float64 of W_c W_c' = L_c L_c', of a mean eigenvalue of one.

    W_c [V, M_g] are the rows of the weight [groups * M_g, D] that multiply block c, zero in the
    padding of narrow blocks: |(x - p) L_c| is proportional to |(x - p) W_c|. Raises HalutError if
    the weight has another shape.
    """
    wide = grouped_weight(weight.detach().double(), blocks).transpose(0, 1)
    split = blocks.split(wide.reshape(-1, blocks.inputs))  # [M, GC, V]
    values, vectors = torch.linalg.eigh(torch.einsum("mcv,mcw->cvw", split, split))
    values = values.clamp(min=0)
    values = values / values.mean().clamp(min=torch.finfo(values.dtype).tiny)
    return (vectors * values.sqrt()[:, None, :]) @ vectors.transpose(1, 2)
