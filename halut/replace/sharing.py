"""Encoder sharing of layers that read the same input, such as q, k and v of an attention.

The plan says who shares (Entry.shares, the group's name); halut.replace.swap gives all of a group
one encoder module and one temperature, learned once and trained by all of their gradients. The
input is encoded once (halut.layers.shared_input), and the encoder's gradient taken once; a prepared
network runs the group as one layer with their tables side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from halut.configs.tables import encoder_options
from halut.encoders import encoders
from halut.errors import HalutError
from halut.layers.lut import LUTLayer
from halut.sites.calls import example_call
from halut.sites.eval_mode import eval_mode
from halut.sites.modules import call_inputs
from halut.sites.operator import ReplacedLayer
from halut.sites.plan import Entry, Plan


def same_inputs(network: nn.Module, example: Any) -> list[list[str]]:
    """Names of Linear and Conv2d modules that one forward pass calls with the very same tensor.

    In the order of their first calls, groups of two and more. Tensors are told by identity: equal
    values of two tensors are no group, and neither are a tensor before and after it was changed in
    place. A module called several times belongs to a group if all of its calls do.
    """
    identities: dict[str, list[tuple[int, int]]] = {}
    alive: list[Tensor] = []  # or a later tensor may get the identity of an earlier one

    def hook(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = call_inputs(args, kwargs)[0]
            alive.append(x)
            identities.setdefault(name, []).append((id(x), x._version))

        return note

    handles = [
        module.register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    with eval_mode(network, handles) as device:
        example_call(network, example).to(device)(network)
    groups: dict[tuple[tuple[int, int], ...], list[str]] = {}
    for name, calls in identities.items():
        groups.setdefault(tuple(calls), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def with_sharing(plan: Plan, groups: Sequence[Sequence[str]]) -> Plan:
    """The plan with `shares` set where sites of one of `groups` can have one encoder.

    They can if they have the same operator, of the table family, with the same options, and cut
    their rows alike; an encoder that measures distances through its layer's weight (pq
    by the output_metric) is its layer's own. A group is named after its first site.
    """
    leader_of: dict[str, str] = {}
    for names in groups:
        leaders: list[Entry] = []
        for entry in (e for e in plan.replaced if e.site.name in names and _sharing(e)):
            leader = next((one for one in leaders if _alike(one, entry)), None)
            if leader is None:
                leaders.append(entry)
            else:
                leader_of[leader.site.name] = leader_of[entry.site.name] = leader.site.name
    entries = tuple(replace(e, shares=leader_of.get(e.site.name)) for e in plan)
    return replace(plan, entries=entries)


def share_encoder(layer: ReplacedLayer, other: ReplacedLayer) -> None:
    """Let `layer` encode by the encoder of `other`; it then learns only what is its own.

    The temperature is the encoder's relaxation's, and so it is shared with it.

    Raises HalutError unless both are of the table family, with encoders that are built alike.
    """
    if not isinstance(layer, LUTLayer) or not isinstance(other, LUTLayer):
        raise HalutError(f"{layer.site.name} and {other.site.name} have no encoders to share")
    ours, theirs = (
        (one.options.name, one.blocks, one.options.K, encoder_options(one.options))
        for one in (layer, other)
    )
    if ours != theirs:
        raise HalutError(
            f"{layer.site.name} and {other.site.name} cannot share an encoder: they need "
            f"{ours} and {theirs}"
        )
    layer.share(other)


def _sharing(entry: Entry) -> bool:
    return entry.operator in encoders and encoders[entry.operator].can_share(entry.options)


def _alike(a: Entry, b: Entry) -> bool:
    rows = [(e.site.kind, e.site.D, e.site.groups, e.site.geometry) for e in (a, b)]
    return (a.operator, a.options, rows[0]) == (b.operator, b.options, rows[1])
