"""Global pruning: the sparsity of each layer of a plan, settled over all of them at once.

Layers are learned one after the other; that is why the plan, and not a layer, holds the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from halut.codecs.prune import METHODS
from halut.errors import HalutError
from halut.sites.plan import Entry, Plan


def with_global_pruning(plan: Plan, network: nn.Module, seed: int = 0) -> Plan:
    """The plan with every scope=global of a weight become scope=local with a sparsity of its own.

    Entries of one method and one sparsity are pruned together, as by
    torch.nn.utils.prune.global_unstructured on the weights of `network`, which is the exact one;
    each then has the share that this took from it. Raises HalutError if that is all of one.
    """
    groups: dict[tuple[str, float], list[Entry]] = {}
    for entry in plan.replaced:
        spec = entry.options.get("weight") or {}
        if spec.get("scope") == "global":
            groups.setdefault((spec["method"], spec["sparsity"]), []).append(entry)
    shares: dict[str, float] = {}
    for (method, sparsity), entries in groups.items():
        weights = [_weight(network, entry) for entry in entries]
        zeros = global_zeros(weights, method, sparsity, seed)
        for entry, weight, count in zip(entries, weights, zeros, strict=True):
            if count == weight.numel():
                raise HalutError(
                    f"pruning {sparsity} of all weights leaves none of {entry.site.name}: lower "
                    "halut.sparsity, or keep it by policy.keep"
                )
            shares[entry.site.name] = count / weight.numel()
    return replace(plan, entries=tuple(_settled(entry, shares) for entry in plan))


def global_zeros(weights: Sequence[Tensor], method: str, sparsity: float, seed: int) -> list[int]:
    """How many entries of each weight are pruned if `sparsity` of all of them are."""
    flat = [weight.detach().flatten().clone() for weight in weights]  # channels_last ones too
    holders = [nn.ParameterDict({"weight": nn.Parameter(weight)}) for weight in flat]
    count = round(sparsity * sum(w.numel() for w in weights))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        places = [(holder, "weight") for holder in holders]
        prune.global_unstructured(places, METHODS[method], amount=count)
    masks = [holder.get_buffer("weight_mask") for holder in holders]
    return [int((mask == 0).sum()) for mask in masks]


def _weight(network: nn.Module, entry: Entry) -> Tensor:
    weight = network.get_submodule(entry.site.name).weight
    assert isinstance(weight, Tensor)
    return weight.detach().cpu()


def _settled(entry: Entry, sparsity: dict[str, float]) -> Entry:
    if entry.site.name not in sparsity:
        return entry
    weight = {**entry.options["weight"], "scope": "local", "sparsity": sparsity[entry.site.name]}
    return replace(entry, options={**entry.options, "weight": weight})
