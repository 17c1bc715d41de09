"""Networks whose layers are replaced and learned, without a run around them."""

from __future__ import annotations

from torch import Tensor, nn

from halut.replace import swap
from halut.sites.calibration import capture
from halut.sites.plan import Plan


def with_learned(
    network: nn.Module, plan: Plan, images: Tensor, rows: int, seed: int = 0
) -> nn.Module:
    """The network with all of the plan's layers, learned from what the exact ones saw."""
    seen = capture(network, [entry.site for entry in plan.replaced], [images], rows=rows)
    for entry in plan.replaced:
        swap.replace_site(network, entry, seen.pop(entry.site.name), seed)
    return network
