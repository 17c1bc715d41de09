"""Average widths and bit operations of a network, over all of its matrix products."""

from __future__ import annotations

from typing import Any

from torch import nn

from halut.plan import Plan
from halut.surgery import replaced_layers

FLOAT = 32


def bit_figures(plan: Plan, network: nn.Module) -> dict[str, float]:
    """weight_bits and activation_bits: averages over all sites, those kept exact included; bops.

    weight_bits: bits of all codes, shared scales and tables, over all weights of the exact
    network's sites. activation_bits: over the values that every site reads for one sample;
    encoders of tables read floats. bops = sum of (bits of a weight's code) * (bits of an
    activation's) * multiply-adds; look-ups and encoders, which `cost` counts, have none.
    """
    layers = dict(replaced_layers(network))
    weights = weight_bits = inputs = input_bits = bops = 0
    for entry in plan:
        site = entry.site
        layer = layers.get(site.name)
        figures = layer.cost() if layer is not None else {"macs": site.macs}
        tables = 8 * figures.get("table_bytes", 0)
        count = site.inputs
        weights += site.weights
        inputs += count
        weight_bits += figures.get("weight_bits", tables or FLOAT * site.weights)
        input_bits += figures.get("input_bits", FLOAT * count)
        bops += figures.get("bops", FLOAT * FLOAT * figures["macs"])
    return {
        "weight_bits": weight_bits / max(weights, 1),
        "activation_bits": input_bits / max(inputs, 1),
        "bops": bops,
    }


def bits_line(figures: dict[str, Any]) -> str:
    """The figures in words."""
    return (
        f"average width over all layers: {figures['weight_bits']:.3g} bits a weight, "
        f"{figures['activation_bits']:.3g} an activation; {figures['bops']:,} bit operations"
    )
