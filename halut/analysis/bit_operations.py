"""Average widths and bit operations of a network, over all of its matrix products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from halut.analysis.network_cost import exact_site_cost, layer_costs
from halut.sites.plan import Plan


def bit_figures(plan: Plan, network: nn.Module) -> dict[str, float]:
    """weight_bits and activation_bits: averages over all sites, those kept exact included; bops.

    weight_bits: bits of all codes, tables and their shared scales, over all weights of the exact
    network's sites. activation_bits: over the values that every site reads for one sample;
    encoders of tables read floats. bops: bit operations by the rule of halut.layers.cost, those of
    multiply-adds, look-ups, adds and compares alike; layers that share an encoder encode once.
    """
    costs = dict(layer_costs(network))
    weights = weight_bits = inputs = input_bits = bops = 0
    for entry in plan:
        site = entry.site
        figures = {**exact_site_cost(site), **costs.get(site.name, {})}
        weights += site.weights
        inputs += site.inputs
        weight_bits += figures["weight_bits"]
        input_bits += figures["input_bits"]
        bops += figures["bops"]
    return {
        "weight_bits": weight_bits / max(weights, 1),
        "activation_bits": input_bits / max(inputs, 1),
        "bops": bops,
    }


def bits_line(figures: Mapping[str, Any]) -> str:
    """The figures in words."""
    return (
        f"average width over all layers: {figures['weight_bits']:.3g} bits a weight, "
        f"{figures['activation_bits']:.3g} an activation; {figures['bops']:,} bit operations"
    )
