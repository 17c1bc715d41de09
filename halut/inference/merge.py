"""Packed layers of one input and one encoder become one layer, their tables side by side.

On the graph of a traced network: the input is encoded once, and looked up once, in the joined
table; each layer's answer is a slice of what comes out.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from halut.inference.packed import PackedConv2d, PackedLayer


def merge(network: fx.GraphModule) -> fx.GraphModule:
    """Join what can be joined; changes and returns `network`."""
    modules = dict(network.named_modules(remove_duplicate=False))
    readers: dict[fx.Node, list[fx.Node]] = {}
    for node in network.graph.nodes:
        if node.op != "call_module" or len(node.all_input_nodes) != 1:
            continue
        if isinstance(modules[node.target], PackedLayer):
            readers.setdefault(node.all_input_nodes[0], []).append(node)
    for nodes in readers.values():
        while nodes:
            first = modules[nodes[0].target]
            alike = [n for n in nodes if _alike(first, modules[n.target])]
            if len(alike) > 1:
                _join(network, alike, [modules[n.target] for n in alike])
            nodes = [n for n in nodes if n not in alike]
    network.graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _alike(a: nn.Module, b: nn.Module) -> bool:
    """True if both make the same codes of the same input, and clamp alike."""
    assert isinstance(a, PackedLayer)
    assert isinstance(b, PackedLayer)
    if a is b:
        return True
    if (type(a), a.form, a.low) != (type(b), b.form, b.low) or a.form == "encoder":
        return False
    if a.site.geometry != b.site.geometry or a.site.groups != 1 or b.site.groups != 1:
        return False
    if a.table.dtype != b.table.dtype or a.table.shape[:3] != b.table.shape[:3]:
        return False
    if a.form == "nearest":
        alike = (a.metric, a.divisor) == (b.metric, b.divisor)
        return alike and torch.equal(a.prototypes, b.prototypes)
    return torch.equal(a.taps, b.taps) and torch.equal(a.thresholds, b.thresholds)


def _join(network: fx.GraphModule, nodes: list[fx.Node], layers: list[PackedLayer]) -> None:
    """One layer called where the first of them was, and a slice of its answer for each."""
    whole = joined(layers)
    names = [str(node.target) for node in nodes]
    parent = names[0].rpartition(".")[0]
    name = "_".join(name.rpartition(".")[2] for name in names)
    target = f"{parent}.{name}" if parent else name
    network.add_submodule(target, whole)
    axis = 1 if isinstance(whole, PackedConv2d) else -1
    parts, start = [], 0
    with network.graph.inserting_before(nodes[0]):
        answer = network.graph.call_module(target, (nodes[0].all_input_nodes[0],))
        for layer in layers:
            where = (answer, axis, start, layer.site.M)
            parts.append(network.graph.call_function(torch.narrow, where))
            start += layer.site.M
    for node, part in zip(nodes, parts, strict=True):
        _hand_over(node, part)


def _hand_over(node: fx.Node, part: fx.Node) -> None:
    """Users of `node` read `part`, which lies between other columns: a view may need a copy."""
    for user in list(node.users):
        if user.op == "call_method" and user.target == "view":
            user.target = "reshape"
    node.replace_all_uses_with(part)
    node.graph.erase_node(node)


def joined(layers: list[PackedLayer]) -> PackedLayer:
    """One layer that answers what the layers answer, side by side [..., sum of their M]."""
    whole = copy.deepcopy(layers[0])
    names = " and ".join(layer.site.name for layer in layers)
    whole.site = replace(whole.site, name=names, M=sum(layer.site.M for layer in layers))

    def beside(name: str, axis: int) -> Tensor:
        return torch.cat([getattr(layer, name) for layer in layers], dim=axis).contiguous()

    whole.table, whole.scale, whole.bias = beside("table", 3), beside("scale", 0), beside("bias", 0)
    whole.pack()
    return whole
