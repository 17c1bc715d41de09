"""Roles of layers in residual blocks, told by where their answers are added, not by names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from halut.errors import HalutError
from halut.sites.calls import example_call
from halut.sites.eval_mode import eval_mode
from halut.sites.usage import Forward, forwards, storages

INNER, WRITER, SHORTCUT = "inner", "writer", "shortcut"


def residual_roles(network: nn.Module, example: Any, names: Collection[str]) -> dict[str, str]:
    """By the name of each layer of `names`: "writer", "shortcut" or "inner".

    A writer's answer reaches a sum with the answer of another branch, and no further layer on the
    way: the last layer of a residual branch. A layer that the other branch was computed from, as
    the stem whose answer a block hands on, does not write by that sum. A shortcut is a writer of
    kernel size 1 whose branch has fewer layers than the other one, and whose input the other
    branch has as well. All others are inner, also those of networks without residual blocks.
    Layers are what `names` lists, and every module without children that has a matrix.

    One forward pass of `example` (as halut.sites.find.find_sites takes it) is followed operator by
    operator, in evaluation mode. Raises HalutError for code that cannot be followed.

    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
    ...     def forward(self, x):
    ...         return x + self.b(self.a(x).relu())
    >>> network = nn.Sequential(nn.Linear(4, 4), Block())
    >>> residual_roles(network, torch.ones(1, 4), ["0", "1.a", "1.b"])
    {'0': 'inner', '1.a': 'inner', '1.b': 'writer'}
    """
    layers = {n: m for n, m in network.named_modules() if n in names or _has_matrix(m)}
    sums = ResidualSums(layers)
    with eval_mode(network) as device:
        call = example_call(network, example).to(device)
        try:
            with forwards(layers, sums.wrap), sums:
                call(network)
        except Exception as error:  # whatever the network's own code raises under a dispatch mode
            line = f"{type(error).__name__}: {error}".splitlines()[0]
            raise HalutError(f"the network's sums cannot be followed: {line}") from error
    return {
        name: SHORTCUT if name in sums.shortcuts else WRITER if name in sums.writers else INNER
        for name in names
    }


class ResidualSums(TorchDispatchMode):
    """Notes which layers' answers are added to another branch's: `writers` and `shortcuts`.

    Sets of layers are the bits of integers. Tensors are told by their storage: what is written into
    a view is in its base.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.writers: set[str] = set()
        self.shortcuts: set[str] = set()
        self.layers = layers
        self.names = list(layers)
        self.bits = {name: 1 << i for i, name in enumerate(self.names)}
        self.sources: dict[int, int] = {}
        """By storage: layers whose answers it is computed from, through no other layer."""
        self.inputs = dict.fromkeys(self.names, 0)
        """By layer: the sources of what it reads."""
        self.upstream = dict.fromkeys(self.names, 0)
        """By layer: all layers that its answer depends on."""
        self.depth = dict.fromkeys(self.names, 1)
        """By layer: layers on the longest way to its answer."""

    def wrap(self, name: str, forward: Forward) -> Forward:
        """For `forwards`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            before = self._sources((args, kwargs))
            y = forward(*args, **kwargs)
            self.inputs[name] |= before
            for source in self._named(before):
                self.upstream[name] |= self.upstream[source] | self.bits[source]
                self.depth[name] = max(self.depth[name], self.depth[source] + 1)
            for storage in storages(y):
                self.sources[storage] = self.bits[name]
            return y

        return run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        sources = self._sources(inputs)
        if func in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor) and len(inputs) == 2:
            self._note_sum(*(self._sources([t]) for t in inputs))
        out = func(*args, **(kwargs or {}))
        if func._schema.is_mutable:
            for storage in storages(inputs):  # more than those written: nothing is lost
                self.sources[storage] = sources
        for storage in storages(out):
            self.sources[storage] = sources
        return out

    def _note_sum(self, a: int, b: int) -> None:
        if not a or not b:
            return
        ours, theirs = self._writing(a, b), self._writing(b, a)
        self.writers.update(ours, theirs)
        for one, other in ((ours, theirs), (theirs, ours)):
            if one and other and self._depth(one) < self._depth(other):
                self.shortcuts.update(name for name in one if self._shortens(name, other))

    def _writing(self, mask: int, other: int) -> list[str]:
        """Layers of `mask` that no layer of `other` depends on."""
        read = other
        for name in self._named(other):
            read |= self.upstream[name]
        return self._named(mask & ~read)

    def _shortens(self, name: str, others: list[str]) -> bool:
        read = 0
        for other in others:
            read |= self.upstream[other]
        return not self.inputs[name] & ~read and _is_pointwise(self.layers[name])

    def _depth(self, names: list[str]) -> int:
        return max(self.depth[name] for name in names)

    def _sources(self, values: Any) -> int:
        mask = 0
        for storage in storages(values):
            mask |= self.sources.get(storage, 0)
        return mask

    def _named(self, mask: int) -> list[str]:
        return [name for name in self.names if mask & self.bits[name]]


def _has_matrix(module: nn.Module) -> bool:
    """True for a module without children whose parameters mix features, as no norm's do."""
    shapes = [p.shape for p in module.parameters()] if not list(module.children()) else []
    return any(sum(size > 1 for size in shape) > 1 for shape in shapes)


def _is_pointwise(layer: nn.Module) -> bool:
    site = getattr(layer, "site", None)  # of a replaced layer
    if site is not None:
        return bool(site.taps == 1)
    size = getattr(layer, "kernel_size", 1)
    return all(n == 1 for n in (size if isinstance(size, tuple) else (size,)))
