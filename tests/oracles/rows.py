"""Oracle of the rows that a site's product reads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from halut.ops.geometry import pad
from halut.sites.find import Site


def unfolded(x: Tensor, site: Site) -> Tensor:
    """All rows of a site's input by torch's own unfold: the slow, obvious form of patch_rows."""
    g = site.geometry
    if g is None:
        return x.reshape(-1, site.D)
    columns = F.unfold(pad(x, g), g.kernel_size, g.dilation, 0, g.stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])
