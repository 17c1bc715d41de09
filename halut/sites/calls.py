"""Calls of a network: the arguments of one forward pass, whatever the forward's signature."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from halut.errors import HalutError

Batches = Iterable[Any] | Callable[[nn.Module], Any]
"""Batches as a data loader yields them, or a forward loop: a function that runs the network."""


class Call:
    """The arguments of one forward pass: `Call(ids, mask=mask)` runs `network(ids, mask=mask)`.

    Where a batch alone does not say how a network takes it (two positional inputs, say), a loader
    yields calls.

    >>> Call(torch.ones(2, 3))(nn.Linear(3, 4)).shape
    torch.Size([2, 4])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def __call__(self, network: nn.Module) -> Any:
        """The network's output."""
        return network(*self.args, **self.kwargs)

    def map(self, function: Callable[[Tensor], Tensor]) -> Call:
        """The call with `function` of every tensor."""
        args, kwargs = tree_map(
            lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf,
            (self.args, self.kwargs),
        )
        return Call(*args, **kwargs)

    def to(self, device: torch.device) -> Call:
        """The call with every tensor, and what else has a method `to`, on the device."""
        args, kwargs = tree_map(
            lambda leaf: leaf.to(device) if hasattr(leaf, "to") else leaf, (self.args, self.kwargs)
        )
        return Call(*args, **kwargs)

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments."""
        return list(tensors_of((self.args, self.kwargs)))

    @property
    def samples(self) -> int:
        """Size of the batch: of the first axis of the first tensor that has one; else 1."""
        return next((len(t) for t in self.tensors if t.ndim), 1)

    def head(self, count: int) -> Call:
        """The call with the first `count` samples: every tensor as long as the batch is cut."""
        return self.part(0, count)

    def part(self, start: int, stop: int, samples: int | None = None) -> Call:
        """The call with samples `start` to `stop` of a batch of `samples` (by default, `samples`
        of the call): every tensor as long as that is cut."""
        size = self.samples if samples is None else samples
        return self.map(lambda t: t[start:stop] if t.ndim and len(t) == size else t)

    def equals(self, other: Call) -> bool:
        """Whether both have the same arguments, tensors by their values."""
        (leaves, spec), (others, other_spec) = (
            tree_flatten((each.args, each.kwargs)) for each in (self, other)
        )
        return spec == other_spec and all(map(_equal, leaves, others))

    def __repr__(self) -> str:
        shapes = self.map(lambda t: list(t.shape))  # type: ignore[arg-type, return-value]
        keywords = [f"{key}={value}" for key, value in shapes.kwargs.items()]
        return f"Call({', '.join([*map(str, shapes.args), *keywords])})"


def example_call(network: nn.Module, example: Any) -> Call:
    """The call that an example stands for.

    A Call is itself; a tuple or a list holds the positional arguments; of a mapping see
    `mapping_call`; anything else, a Tensor above all, is the one positional argument.
    """
    if isinstance(example, Call):
        return example
    if isinstance(example, Mapping):
        return mapping_call(network, example)
    return Call(*example) if isinstance(example, tuple | list) else Call(example)


def batch_call(network: nn.Module, batch: Any) -> Call:
    """The call that a loader's batch stands for.

    As `example_call`, but for a tuple or a list: that is (inputs, targets, ...), and its first
    element is the inputs, a tuple among them the positional arguments.
    """
    if isinstance(batch, tuple | list):
        if not batch:
            raise HalutError("a batch of calibration data is empty")
        batch = batch[0]
    return example_call(network, batch)


def mapping_call(network: nn.Module, mapping: Mapping[str, Any]) -> Call:
    """Keyword arguments if the forward takes them, else the mapping as one argument.

    It takes them if it has **kwargs, or if every parameter without a default is a key; keys that
    it does not know, labels say, are then left out.
    """
    parameters = list(inspect.signature(type(network).forward).parameters.values())[1:]
    accepted = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return Call(**mapping)
    kwargs = {p.name: mapping[p.name] for p in accepted if p.name in mapping}
    positional = any(p.kind is p.POSITIONAL_ONLY for p in parameters)
    if (
        kwargs
        and not positional
        and all(p.name in kwargs for p in accepted if p.default is p.empty)
    ):
        return Call(**kwargs)
    return Call(mapping)


def is_loop(data: Any) -> bool:
    """True for a forward loop, False for batches; HalutError for neither."""
    if hasattr(data, "__iter__") or hasattr(data, "__getitem__"):
        return False
    if not callable(data):
        kind = type(data).__name__
        raise HalutError(f"batches or a function of the network are wanted, got {kind}")
    return True


def feed(
    network: nn.Module,
    data: Batches,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Run the network on every batch, moved to `device`, or leave it to the forward loop."""
    if is_loop(data):
        data(network)  # type: ignore[operator]
        return
    for batch in data:  # type: ignore[union-attr]
        batch_call(network, batch).to(device)(network)
        if progress is not None:
            progress(1)


def first_call(network: nn.Module, data: Batches) -> Call:
    """The call of the first batch, or the first that a forward loop makes; then the loop is left.

    Raises HalutError if there is none.
    """
    if not is_loop(data):
        for batch in data:  # type: ignore[union-attr]
            return batch_call(network, batch)
        raise HalutError("there are no batches")
    before = vars(network).get("forward")

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise _FirstCall(Call(*args, **kwargs))

    vars(network)["forward"] = stop
    try:
        data(network)  # type: ignore[operator]
    except _FirstCall as first:
        return first.call
    finally:
        vars(network).pop("forward")
        if before is not None:
            vars(network)["forward"] = before
    raise HalutError("the forward loop does not call the network")


class _FirstCall(BaseException):
    """Leaves a forward loop, through handlers of Exception in it."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    return a is b or (type(a) is type(b) and isinstance(a, str | int | float) and a == b)


def labeled_call(network: nn.Module, batch: Any) -> tuple[Call, Tensor]:
    """The call and the targets of a batch (inputs, targets, ...); HalutError for another.

    Inputs are those of `batch_call`: a tensor, a tuple of positional arguments, a mapping, a Call.
    """
    if isinstance(batch, tuple | list) and len(batch) > 1 and isinstance(batch[1], Tensor):
        return batch_call(network, batch), batch[1]
    raise HalutError(
        f"accuracy and loss need batches of (inputs, targets), targets a tensor, got "
        f"{type(batch).__name__}"
    )


def logits_of(output: Any) -> Tensor:
    """A network's answer, or the "logits" of one that is a mapping or an object; HalutError else.

    >>> logits_of({"logits": torch.ones(2, 3)}).shape
    torch.Size([2, 3])
    """
    logits = output.get("logits") if isinstance(output, Mapping) else output
    logits = getattr(logits, "logits", logits)
    if not isinstance(logits, Tensor):
        kind = type(output).__name__
        raise HalutError(f"a tensor, or an answer with logits is wanted of the network, got {kind}")
    return logits


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor in a value: in containers, mappings and dataclasses of any depth."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, Mapping):
            yield from tensors_of(list(leaf.values()))
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            yield from tensors_of([getattr(leaf, f.name) for f in dataclasses.fields(leaf)])
