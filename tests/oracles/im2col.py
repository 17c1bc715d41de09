"""Oracle of the rows that a convolution multiplies with its weight."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from halut.ops.geometry import ConvGeometry


def im2col_reference(x: Tensor, geometry: ConvGeometry | None) -> Tensor:
    """Rows [N, kh * kw * C_in] of a map x [B, C_in, H, W], channel-major, by torch's own unfold.

    Those of an x [.., D] without a geometry are its last dimension's.
    """
    if geometry is None:
        return x.reshape(-1, x.shape[-1])
    padded = F.pad(x, geometry.pads(x.shape[2], x.shape[3]))
    columns = F.unfold(padded, geometry.kernel_size, geometry.dilation, 0, geometry.stride)
    return columns.transpose(1, 2).flatten(0, 1)
