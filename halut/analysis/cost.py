"""What a network costs per sample, exact and replaced, over all of its layers."""

from __future__ import annotations

from torch import nn

from halut.plan import Plan
from halut.surgery import replaced_layers

KEYS = ("macs", "encode_ops", "lookups", "adds", "weight_bytes", "table_bytes")


def exact_cost(plan: Plan, network: nn.Module) -> dict[str, int]:
    """Cost of the exact network; `network` is the exact one. Weights are 32-bit floats.

    macs counts the plan's sites, replaced or kept; weight_bytes every parameter.
    """
    cost = dict.fromkeys(KEYS, 0)
    cost["macs"] = sum(entry.site.macs for entry in plan)
    cost["weight_bytes"] = 4 * sum(p.numel() for p in network.parameters())
    return cost


def replaced_cost(plan: Plan, network: nn.Module) -> dict[str, int]:
    """Cost of `network` with the plan's sites replaced: operators, and all that stayed exact.

    table_bytes holds tables alone; prototypes and thresholds (encoder_bytes) count as weight_bytes.
    An encoder's state is that of inference: no gradients, no copy of the exact weight. Layers that
    share an encoder encode once.
    """
    layers = dict(replaced_layers(network))
    cost = dict.fromkeys(KEYS, 0)
    inside: set[int] = set()
    counted: set[int] = set()  # encoders
    for layer in layers.values():
        inside.update(id(p) for p in layer.parameters())
        figures = layer.cost()
        encoder = getattr(layer, "encoder", None)
        if encoder is not None and id(encoder) in counted:
            figures = {**figures, "encode_ops": 0, "encoder_bytes": 0}
        counted.add(id(encoder))
        for key in KEYS:
            cost[key] += figures.get(key, 0)
        cost["weight_bytes"] += figures.get("encoder_bytes", 0)
    cost["macs"] += sum(e.site.macs for e in plan if e.site.name not in layers)
    cost["weight_bytes"] += 4 * sum(p.numel() for p in network.parameters() if id(p) not in inside)
    return cost
