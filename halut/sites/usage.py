"""Data flow of a network's layers without module hooks, which switch torch's fused paths off.

What is learned here about a network in evaluation mode without gradients is what will run there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from halut.sites.calls import Call, tensors_of

Forward = Callable[..., Any]

DECISIONS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero")
"""Operators whose answer becomes a value of Python: what that decides is not followed."""


@contextmanager
def forwards(
    modules: Mapping[str, nn.Module], wrap: Callable[[str, Forward], Forward]
) -> Iterator[None]:
    """Within, every module's forward is wrap(name, its own); no hook is involved."""
    before = {name: vars(module).get("forward") for name, module in modules.items()}
    for name, module in modules.items():
        vars(module)["forward"] = wrap(name, module.forward)
    try:
        yield
    finally:
        for name, module in modules.items():
            vars(module).pop("forward")
            if before[name] is not None:
                vars(module)["forward"] = before[name]


class Flow(TorchDispatchMode):
    """Follows, operator by operator, where the layers' weights are read and their answers go.

    `read`: layers whose parameters an operator took outside of their own forward. `reaching(out)`:
    layers that the network's answer depends on. Tensors are told by their storage: what is written
    into a view is in its base. Reading a weight's dtype, device or shape is no operator.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.read: set[str] = set()
        self.active: list[str] = []
        self.bits = {name: 1 << i for i, name in enumerate(layers)}
        self.taint: dict[int, int] = {}  # by storage
        self.decided = 0
        owners: dict[tuple[int, int], set[str]] = {}
        for name, layer in layers.items():
            for p in layer.parameters():
                if p.data_ptr():
                    owners.setdefault((p.data_ptr(), p.numel() * p.element_size()), set()).add(name)
        self.spans = sorted(owners)
        self.owners = [owners[span] for span in self.spans]
        self.starts = [start for start, _ in self.spans]

    def wrap(self, name: str, forward: Forward) -> Forward:
        """For `forwards`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self.active.append(name)
            try:
                y = forward(*args, **kwargs)
            finally:
                self.active.pop()
            for storage in storages(y):
                self.taint[storage] = self.taint.get(storage, 0) | self.bits[name]
            return y

        return run

    def reaching(self, out: Any) -> set[str]:
        """Names of the layers on which `out`, or a value of Python on the way, depends."""
        mask = self.decided
        for storage in storages(out):
            mask |= self.taint.get(storage, 0)
        return {name for name, bit in self.bits.items() if mask & bit}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        for t in inputs:
            self._note(t)
        sources, mask = set(), 0
        for storage in storages(inputs):
            sources.add(storage)
            mask |= self.taint.get(storage, 0)
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in DECISIONS:
            self.decided |= mask
        if func._schema.is_mutable:
            for storage in sources:  # more than those written: nothing is lost
                self.taint[storage] = mask
        for storage in storages(out):
            self.taint[storage] = mask
        return out

    def _note(self, t: Tensor) -> None:
        address = _address(t)
        i = bisect_right(self.starts, address) - 1
        if address and i >= 0 and address < self.starts[i] + self.spans[i][1]:
            self.read |= self.owners[i].difference(self.active)


def _address(t: Tensor) -> int:
    try:
        return t.data_ptr()
    except RuntimeError:  # nested, sparse or fake
        return 0


def storages(values: Any) -> list[int]:
    """Addresses of the storages of all tensors in a value."""
    storages = []
    for t in tensors_of(values):
        try:
            storages.append(t.untyped_storage().data_ptr())
        except (RuntimeError, NotImplementedError):
            continue
    return [address for address in storages if address]


def followed(
    network: nn.Module, example: Call, layers: Mapping[str, nn.Module]
) -> tuple[set[str], set[str]] | None:
    """(layers whose weight is read outside of their forward, layers that the answer depends on).

    None where the network's code cannot be followed. `network` must be in the state it is asked
    about: in evaluation mode, without gradients.
    """
    flow = Flow(layers)
    try:
        with forwards(layers, flow.wrap), flow:
            out = example(network)
    except Exception:  # whatever the network's own code raises under a dispatch mode
        return None
    return flow.read, flow.reaching(out)


def counting(counts: dict[str, int]) -> Callable[[str, Forward], Forward]:
    """For `forwards`: counts[name] goes up with every call."""

    def wrap(name: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return forward(*args, **kwargs)

        return run

    return wrap


def seeded(network: nn.Module, x: Tensor | Call) -> Any:
    """The network's answer to x, of one and the same random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return x(network) if isinstance(x, Call) else network(x)


def same(a: Any, b: Any, tolerance: float = 1e-5) -> bool:
    """Whether two answers of a network agree, in every tensor, NaN with NaN."""
    xs, ys = (list(tensors_of(value)) for value in (a, b))
    return len(xs) == len(ys) and all(
        x.shape == y.shape and _close(x, y, tolerance) for x, y in zip(xs, ys, strict=True)
    )


def _close(x: Tensor, y: Tensor, tolerance: float) -> bool:
    if x.is_nested or not x.numel():
        return True
    if not x.is_floating_point():
        return torch.equal(x, y)
    size = float(y[y.isfinite()].abs().max()) if bool(y.isfinite().any()) else 0.0
    return torch.allclose(x, y.to(x.dtype), rtol=0, atol=tolerance * size, equal_nan=True)
