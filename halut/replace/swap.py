"""Module replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.replace.liveness import prove
from halut.replace.operator_registry import make_operator
from halut.replace.sharing import share_encoder
from halut.sites.attention import KIND, AttentionProducts, expose_attention
from halut.sites.find import site_of, unsupported_reason
from halut.sites.modules import replace_module
from halut.sites.operator import ReplacedLayer
from halut.sites.plan import Entry, Plan

SITES = (nn.Linear, nn.Conv2d, AttentionProducts)


def apply(
    network: nn.Module, plan: Plan, stages: int | None = None, example: Any = None
) -> nn.Module:
    """Swap every site of the plan's first `stages` stages (None: all) for an empty operator.

    Weight and bias are copied, nothing is learned: load a state dict, or calibrate. Sites
    already swapped are left alone, so a later stage can be applied to the result of an earlier
    one. Changes `network` and returns it. Raises HalutError, before anything is changed, if the
    plan does not fit the network; and with an `example`, a batch of inputs, if not every layer that
    the plan replaces really answers it (halut.replace.liveness).
    """
    entries = [e for e in plan.replaced if stages is None or (e.stage or 0) < stages]
    if any(entry.site.kind == KIND for entry in entries):
        expose_attention(network)
    for entry in entries:
        _check(network, entry)
    todo = [e for e in entries if not isinstance(_module(network, e), ReplacedLayer)]
    modules = [build(network, entry) for entry in todo]  # all of them, as an operator may refuse
    for entry, module in zip(todo, modules, strict=True):
        swap(network, entry, module)
    if example is not None:
        prove(network, example, [entry.site.name for entry in entries])
    return network


def build(network: nn.Module, entry: Entry) -> ReplacedLayer:
    """The operator's empty module for one site, weight and bias copied, on the same device.

    It has the encoder of the sites it shares one with, if any of them is in the network.
    """
    source = _module(network, entry)
    module = make_operator(entry.operator, **entry.options).build(entry.site, source)
    assert isinstance(module, ReplacedLayer)
    reference = next(source.parameters(), None)
    if reference is None:  # attention's products have none
        reference = next(network.parameters())
    module.to(device=reference.device)
    module.train(source.training)
    module.entry = entry
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.requires_grad and reference.requires_grad)
    _attach_shared_encoder(network, entry, module)
    return module


def _attach_shared_encoder(network: nn.Module, entry: Entry, module: ReplacedLayer) -> None:
    """Give the module the encoder of the sites it shares one with, if one of them is there."""
    module.shares = entry.shares
    if entry.shares is None:
        return
    for _, other in replaced_layers(network):
        if other.shares == entry.shares and other is not module:
            share_encoder(module, other)
            return


def swap(network: nn.Module, entry: Entry, module: ReplacedLayer) -> None:
    """Put `module` at the entry's site: at every place, if the network shares the layer."""
    _module(network, entry)
    _attach_shared_encoder(network, entry, module)  # what it was built before may be there now
    replace_module(network, entry.site.name, module)


def replace_site(
    network: nn.Module,
    entry: Entry,
    rows: Tensor,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    target_rows: Tensor | None = None,
) -> ReplacedLayer:
    """Build the entry's operator, calibrate it on rows [N, groups * D], swap it in.

    Returns the new layer. `progress` is told how many codebooks are learned, `target_rows` are the
    exact network's (ReplacedLayer.calibrate). The network is as it was if learning fails.
    """
    module = build(network, entry)
    module.calibrate(rows, seed=seed, progress=progress, target_rows=target_rows)
    swap(network, entry, module)
    return module


def replaced_layers(network: nn.Module) -> Iterator[tuple[str, ReplacedLayer]]:
    """(name, module) of every replaced layer of the network."""
    for name, module in network.named_modules():
        if isinstance(module, ReplacedLayer):
            yield name, module


def _module(network: nn.Module, entry: Entry) -> nn.Module:
    try:
        return network.get_submodule(entry.site.name)
    except AttributeError as error:
        raise HalutError(f"the plan's site {entry.site.name!r} is not in this network") from error


def _check(network: nn.Module, entry: Entry) -> None:
    module = _module(network, entry)
    if isinstance(module, ReplacedLayer):
        site = replace(module.site, name=entry.site.name)  # halut.nn's know no name
    elif isinstance(module, SITES):
        reason = unsupported_reason(module)
        if reason is not None:
            raise HalutError(f"{entry.site.name} cannot be replaced: {reason}")
        site = site_of(entry.site.name, module, entry.site.rows, entry.site.M)
    else:
        raise HalutError(f"{entry.site.name} is a {type(module).__name__}, not a site")
    if site != entry.site:
        raise HalutError(
            f"the plan was made for another network: {entry.site.name} has D={site.D}, "
            f"M={site.M}, {site.describe()}; the plan says D={entry.site.D}, "
            f"M={entry.site.M}, {entry.site.describe()}"
        )


def digest(network: nn.Module) -> str:
    """SHA-256 over names and bytes of all parameters and buffers; equal networks, equal digests."""
    return state_digest(network.state_dict())


def state_digest(state: Mapping[str, Tensor]) -> str:
    """`digest` of a network with that state dict."""
    import hashlib

    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
