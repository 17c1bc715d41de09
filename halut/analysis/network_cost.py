"""Cost of a network per sample, exact and replaced, over all of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from halut.layers.codec import CodecLayer
from halut.replace.operator_registry import make_operator
from halut.replace.swap import replaced_layers
from halut.sites.calls import Call, example_call
from halut.sites.eval_mode import eval_mode
from halut.sites.find import Site
from halut.sites.operator import ReplacedLayer
from halut.sites.plan import Entry, Plan

FLOAT = 32
ENCODE = ("encode_compares", "encode_macs", "encode_adds")
KEYS = ("macs", *ENCODE, "lookups", "adds", "weight_bytes", "table_bytes")


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
    layers = dict(layer_costs(network))
    cost = dict.fromkeys(KEYS, 0)
    for figures in layers.values():
        for key in KEYS:
            cost[key] += figures.get(key, 0)
        cost["weight_bytes"] += figures.get("encoder_bytes", 0)
    inside = {id(p) for _, layer in replaced_layers(network) for p in layer.parameters()}
    cost["macs"] += sum(e.site.macs for e in plan if e.site.name not in layers)
    cost["weight_bytes"] += 4 * sum(p.numel() for p in network.parameters() if id(p) not in inside)
    return cost


def layer_costs(network: nn.Module) -> Iterator[tuple[str, dict[str, int]]]:
    """(name, cost) of every replaced layer; a shared encoder costs at the first that has it."""
    counted: set[int] = set()
    for name, layer in replaced_layers(network):
        yield name, layer_cost(layer, counted)


def layer_cost(layer: ReplacedLayer, counted: set[int]) -> dict[str, int]:
    """The layer's cost, less that of an encoder whose id is among `counted`; adds its own id."""
    figures = layer.cost()
    encoder = getattr(layer, "encoder", None)
    if id(encoder) in counted:
        figures = without_encoder(figures)
    if encoder is not None:
        counted.add(id(encoder))
    return figures


def without_encoder(figures: Mapping[str, int]) -> dict[str, int]:
    """The cost of a table layer whose input another layer encodes."""
    own = {**figures, **dict.fromkeys((*ENCODE, "encode_bops", "encoder_bytes"), 0)}
    own["bops"] = figures["bops"] - figures["encode_bops"]
    return own


def planned_costs(plan: Plan) -> Iterator[tuple[Entry, ReplacedLayer | None, dict[str, int]]]:
    """Every entry with its operator's layer, empty, and that layer's cost.

    Of a site that is kept: None, and the cost of its exact product in 32-bit floats. A shared
    encoder costs at the first site that has it. Layers are built one after the other: nothing is
    learned, and no weight is needed. Where pruning decides what is held, masks are drawn.
    """
    encoded: set[str] = set()
    for entry in plan:
        layer = planned_layer(entry) if entry.replaced else None
        if layer is None:
            yield entry, None, exact_site_cost(entry.site)
            continue
        figures = layer.cost()
        if entry.shares is not None and entry.shares in encoded:
            figures = without_encoder(figures)
        encoded |= {entry.shares} - {None}  # type: ignore[arg-type]
        yield entry, layer, figures


def replaced_costs(
    plan: Plan, network: nn.Module
) -> Iterator[tuple[Entry, ReplacedLayer | None, dict[str, int]]]:
    """As `planned_costs`, of the layers that `network` has at the plan's sites."""
    layers, counted = dict(replaced_layers(network)), set[int]()
    for entry in plan:
        layer = layers.get(entry.site.name)
        if layer is None:
            yield entry, None, exact_site_cost(entry.site)
        else:
            yield entry, layer, layer_cost(layer, counted)


def macs_outside(plan: Plan, network: nn.Module, example: Any) -> int:
    """Multiply-adds of one sample in products of the exact `network` that are none of the plan's
    sites: attention's two where the policy leaves them out, layers that are read without being
    called, a network's own matmuls.

    What torch's FLOP counter finds in a forward pass of `example` (see halut.sites.calls.Call; of
    its first sample, or of all of it where the network cannot take one), less the sites'. 0 where
    it finds no more.
    """
    call = example_call(network, example)
    try:
        flops = _flops(network, call.head(1))
    except Exception:  # the network's own code, which may want a whole batch
        flops = _flops(network, call) // max(call.samples, 1)
    return max(flops // 2 - sum(entry.site.macs for entry in plan), 0)


def _flops(network: nn.Module, call: Call) -> int:
    """FLOPs of a call; of fused attention, which the counter does not know, by its plain form."""
    from torch.utils.flop_counter import FlopCounterMode

    fast = torch.backends.mha.get_fastpath_enabled()
    counter = FlopCounterMode(display=False)
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with eval_mode(network) as device, sdpa_kernel(SDPBackend.MATH), counter:
            call.to(device)(network)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


@torch.no_grad()
def planned_layer(entry: Entry) -> ReplacedLayer:
    """The empty layer of a replaced entry; what is drawn leaves torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        layer = make_operator(entry.operator, **entry.options).build(entry.site)
        assert isinstance(layer, ReplacedLayer)
        if isinstance(layer, CodecLayer):
            for codec in layer.factors().values():
                if getattr(codec, "mask", None) is not None:
                    codec.calibrate(torch.randn(1, *codec.layout.shape))
    return layer


def exact_site_cost(site: Site) -> dict[str, int]:
    """The cost of the exact product of 32-bit floats, as `ReplacedLayer.cost` has it."""
    return {
        "macs": site.macs,
        "bops": FLOAT * FLOAT * site.macs,
        "weight_bits": FLOAT * site.weights,
        "input_bits": FLOAT * site.inputs,
        "weight_bytes": FLOAT // 8 * (site.weights + site.M * site.bias),
    }


def operations(cost: Mapping[str, Any]) -> int:
    """One for a multiply-add, a compare, an add of an encoder, and a look-up with its add.

    Takes the costs of earlier reports too, whose encode_ops were not split.
    """
    keys = ("macs", *ENCODE, "encode_ops", "lookups")
    return sum(cost.get(key, 0) for key in keys)
