"""Sharding of a network by torch's `fully_shard` (FSDP2), and the full state dict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

MIN_SHARD_NUMEL = 2**18
"""Parameters worth a gathering of their own; fewer are gathered with the rest."""
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def shard(network: nn.Module, mesh: DeviceMesh, keep_gathered: bool = False) -> None:
    """Leave each rank a part of every matrix and table of `network`, in place and for good.

    A unit's parameters are gathered before its forward pass, dropped after it, and gathered again
    for its backward pass, which leaves each rank its part of the mean gradient. `keep_gathered`:
    dropped after the backward pass only, for losses that use them outside the unit's forward.

    Whole on every rank stay buffers, which are each rank's own, and the parameters that
    `unsharded_parameters` names: `average` their gradients before every step. Operators keep
    their layers' `after_step` simple by that: temperatures, bases and biases are whole.
    """
    channels_last = any(p.ndim == 4 and not p.is_contiguous() for p in network.parameters())
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # fully_shard takes no other
    if channels_last:
        network.register_forward_pre_hook(_to_channels_last)
    blocks = units(network)
    whole = unsharded_parameters(network, blocks, mesh.size())
    for module in (*blocks, network):
        module.register_forward_hook(_no_view)
        fully_shard(
            module,
            mesh=mesh,
            ignored_params=whole,
            shard_placement_fn=lambda parameter: placement(parameter, mesh.size()),
            reshard_after_forward=None if module is network else not keep_gathered,
        )
    network.to(_device(mesh))


def units(network: nn.Module) -> list[nn.Module]:
    """The modules gathered as one: the network's children, and what containers hold.

    A module of more than a quarter of the network that is mostly containers is opened too. What is
    no container stays together, as a block may read a layer's weight without calling the layer.
    """
    total = _size(network)
    least, most = min(total // 32, MIN_SHARD_NUMEL), total // 4

    def opened(module: nn.Module) -> bool:
        if isinstance(module, CONTAINERS):
            return True
        inside = sum(_size(child) for child in module.children() if opened(child))
        return most < _size(module) < 2 * inside

    def within(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if _size(child) >= max(least, 1):
                yield from within(child) if opened(child) else (child,)

    return list(dict.fromkeys(within(network)))


def unsharded_parameters(
    network: nn.Module, blocks: list[nn.Module], ranks: int
) -> set[nn.Parameter]:
    """Parameters that are not sharded: vectors, what no dimension divides, what units share."""
    owners: dict[nn.Parameter, set[int]] = {}

    def own(module: nn.Module, unit: int) -> None:
        unit = next((i for i, one in enumerate(blocks) if one is module), unit)
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, set()).add(unit)
        for child in module.children():
            own(child, unit)

    own(network, -1)
    return {p for p, of in owners.items() if len(of) > 1 or placement(p, ranks) is None}


def placement(parameter: Tensor, ranks: int) -> Shard | None:
    """The dimension along which a parameter is parted: the first in equal parts, else the first.

    None: it stays whole, as all do that are a vector, of whatever shape.
    """
    shape = parameter.shape
    if parameter.numel() == max(shape, default=1):
        return None
    even = next((dim for dim, size in enumerate(shape) if size % ranks == 0), None)
    if even is None and shape[0] < ranks:
        return None
    return Shard(even or 0)


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, which all ranks must ask for; another as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather(sharded: nn.Module, network: nn.Module) -> None:
    """Copy parameters and buffers of `sharded` into `network`, which it was a copy of.

    One by one: torch's get_model_state_dict holds all of them on each device at once, or on rank 0
    alone, while every rank measures, and leaves out buffers that are not persistent.
    """
    for (name, source), (other, target) in zip(_state(sharded), _state(network), strict=True):
        assert name == other
        target.copy_(whole(source))


@torch.no_grad()
def average(parameters: Iterable[nn.Parameter]) -> None:
    """Average over the ranks the gradients of those parameters that are not sharded.

    `fully_shard` leaves alone what it is told to ignore, and DDP takes no network in shards.
    A parameter without a gradient on every rank stays without, on some it counts as zero.
    """
    unsharded = [p for p in parameters if not isinstance(p, DTensor)]
    if not unsharded:
        return
    device = unsharded[0].device
    has_gradient = torch.tensor([float(p.grad is not None) for p in unsharded], device=device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in unsharded]
    flat = torch.cat([*(g.flatten().float() for g in gradients), has_gradient])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    *means, has_gradient = flat.split([*(p.numel() for p in unsharded), len(unsharded)])
    for parameter, mean, share in zip(unsharded, means, has_gradient.tolist(), strict=True):
        if share:
            parameter.grad = mean.view_as(parameter).to(parameter.dtype)


@torch.no_grad()
def clip_norm(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """torch.nn.utils.clip_grad_norm_ in two halves: it takes shards or whole tensors, not both.

    Returns the norm of all gradients.
    """
    stepped = [p for p in parameters if p.grad is not None]
    halves = [[p for p in stepped if isinstance(p, DTensor) is parted] for parted in (True, False)]
    gradients = [[p.grad for p in half if p.grad is not None] for half in halves]
    norms = [whole(nn.utils.get_total_norm(half)).to(stepped[0].device) for half in gradients]
    norm = torch.stack(norms).norm()
    for half in halves:
        nn.utils.clip_grads_with_norm_(half, most, norm)
    return norm


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _state(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _device(mesh: DeviceMesh) -> torch.device:
    kind = mesh.device_type
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


def _to_channels_last(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Images channels_last, as the weights were: convolutions hand the layout on."""
    layout = torch.channels_last
    return tuple(
        x.contiguous(memory_format=layout) if isinstance(x, Tensor) and x.ndim == 4 else x
        for x in inputs
    )


def _no_view(module: nn.Module, inputs: Any, output: Any) -> Any:
    """What changes a view in place drops the hook on it that gathers for the backward pass."""
    if isinstance(output, Tensor) and output.requires_grad and output._base is not None:
        return output.clone()
    return output
