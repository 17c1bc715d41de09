"""Merging of packed layers with one input and one encoder: their tables are concatenated.

On the graph of a traced network: the input is encoded once, and looked up once, in the joined
table; each layer's answer is a slice of what comes out (halut.inference.fold puts it there).
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from halut.inference.table_layers import PackedLayer


def same_encoding(a: nn.Module, b: nn.Module) -> bool:
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
    if not _same_transform(a.transform, b.transform):
        return False
    if a.form == "nearest":
        alike = (a.metric, a.divisor) == (b.metric, b.divisor)
        return alike and torch.equal(a.prototypes, b.prototypes)
    return torch.equal(a.taps, b.taps) and torch.equal(a.thresholds, b.thresholds)


def _same_transform(a: nn.Module | None, b: nn.Module | None) -> bool:
    if a is None or b is None:
        return a is b
    states = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return type(a) is type(b) and all(torch.equal(one, other) for one, other in states)


def replace_uses(node: fx.Node, part: fx.Node) -> None:
    """Users of `node` read `part`, which lies between other columns: a view may need a copy."""
    for user in list(node.users):
        if user.op == "call_method" and user.target == "view":
            user.target = "reshape"
    node.replace_all_uses_with(part)
    node.graph.erase_node(node)


def concat_layers(layers: list[PackedLayer]) -> PackedLayer:
    """One layer that answers what the layers answer, side by side [..., sum of their M]."""
    whole = copy.deepcopy(layers[0])
    names = " and ".join(layer.site.name for layer in layers)
    whole.site = replace(whole.site, name=names, M=sum(layer.site.M for layer in layers))

    def beside(name: str, axis: int) -> Tensor:
        return torch.cat([getattr(layer, name) for layer in layers], dim=axis).contiguous()

    whole.table, whole.scale, whole.bias = beside("table", 3), beside("scale", 0), beside("bias", 0)
    whole.pack()
    return whole
