"""Taylor scores: how much replacing a layer raises the loss, from the exact network's gradients.

Let y be the layer's exact answer to one sample, dy the change that an operator makes there, and g
the gradient of that sample's loss with respect to y. To second order, with the Hessian
approximated by the empirical Fisher matrix, the mean of g g',

    rise = mean over samples of <g, dy>  +  1/2 mean over samples of <g, dy>^2.

The gradients are those of the exact network: one backward pass for each batch serves every layer
and every operator. Source of the second-order term: Theis et al., Faster gaze prediction with dense
networks and Fisher pruning, 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halut.analysis.layer_errors import BLOCK, ErrorSums
from halut.errors import HalutError
from halut.sites.calls import Call, labeled_call, logits_of
from halut.sites.eval_mode import eval_mode
from halut.sites.modules import call_inputs
from halut.sites.usage import Forward, forwards

Loss = Callable[[Any, Tensor], Tensor]
"""(answers of the network, targets) -> loss of each sample [B]."""


PART = 64
"""Samples of a forward pass whose activations are held for the backward pass, at most."""
ENTRIES = 1 << 21
"""Entries of the input of such a pass; 13 images of 224 x 224 pixels."""


def cross_entropy(output: Any, target: Tensor) -> Tensor:
    """Cross-entropy of each sample [B], of logits or of an answer that has them."""
    return F.cross_entropy(logits_of(output).float(), target, reduction="none")


@dataclass
class LayerCall:
    """One call of a layer: its inputs, and the gradient [b, ...] of the summed loss at its answer,
    of `samples` samples."""

    inputs: tuple[Tensor, ...]
    gradient: Tensor
    samples: int


@dataclass
class TaylorSums:
    """Running sums over samples of <g, dy>, from which both orders follow."""

    samples: int = 0
    product: float = 0.0
    squared: float = 0.0
    errors: ErrorSums = field(default_factory=ErrorSums)

    def add(self, products: Tensor) -> None:
        """Take in <g, dy> of some samples, [b]."""
        products = products.double()
        self.samples += len(products)
        self.product += float(products.sum())
        self.squared += float(products.square().sum())

    def figures(self) -> dict[str, float]:
        """first_order and second_order, in units of the loss."""
        n = max(self.samples, 1)
        return {"first_order": self.product / n, "second_order": 0.5 * self.squared / n}


def gradients(
    network: nn.Module,
    names: Sequence[str],
    batches: Iterable[Any],
    loss: Loss = cross_entropy,
    samples: int | None = None,
) -> dict[str, list[list[LayerCall]]]:
    """By layer's name a list, for each part of a batch, of its calls with their gradients.

    (inputs, targets) of at most `samples` samples are run; None: all. Inputs are those of
    `labeled_call`. Batches of more than PART samples, or ENTRIES inputs, run in parts, as their
    activations are held for the backward pass. The network runs in evaluation mode, so that samples
    do not depend on each other, and none of its parameters gets a gradient. All that is returned is
    held in memory, on the CPU. Raises HalutError if there are no batches, or a loss or a gradient
    is NaN or infinite.
    """
    calls: dict[str, list[list[LayerCall]]] = {name: [] for name in names}
    layers = {name: network.get_submodule(name) for name in names}
    seen = 0
    with eval_mode(network) as device, torch.enable_grad():
        for call, target in _parts(network, batches, samples):
            seen += len(target)
            notes = _Notes(len(target))
            with forwards(layers, notes.wrap):
                losses = loss(call.to(device)(network), target.to(device))
            _store(calls, notes, losses)
    if not seen:
        raise HalutError("Taylor scores need at least one batch of (inputs, targets), got none")
    return calls


def _parts(
    network: nn.Module, batches: Iterable[Any], samples: int | None
) -> Iterator[tuple[Call, Tensor]]:
    """Batches of at most PART samples and, of more than one, ENTRIES inputs; `samples` in all."""
    left = math.inf if samples is None else samples
    for batch in batches:
        call, target = labeled_call(network, batch)
        size = len(target)
        entries = max(1, sum(tensor.numel() for tensor in call.tensors))
        step = max(1, min(PART, ENTRIES * size // entries))
        for start in range(0, size, step):
            stop = start + int(min(step, size - start, left))
            if stop == start:
                return
            left -= stop - start
            yield call.part(start, stop, size), target[start:stop]


class _Notes:
    """Inputs of the layers' calls in one forward pass, and a zero added to each answer: the
    gradient of that zero is the answer's."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.calls: list[tuple[str, tuple[Tensor, ...], Tensor]] = []

    def wrap(self, name: str, forward: Forward) -> Forward:
        """For `forwards`."""

        def run(*args: Any, **kwargs: Any) -> Tensor:
            y: Tensor = forward(*args, **kwargs)
            if len(y) % self.samples:
                raise HalutError(
                    f"{name} answers {len(y)} rows to {self.samples} samples: no Taylor score"
                )
            probe = torch.zeros_like(y, requires_grad=True)
            inputs = tuple(each.detach().clone() for each in call_inputs(args, kwargs))
            self.calls.append((name, inputs, probe))
            return y + probe

        return run


def _store(calls: dict[str, list[list[LayerCall]]], notes: _Notes, losses: Tensor) -> None:
    if not bool(torch.isfinite(losses).all()):
        raise HalutError("the exact network's loss is NaN or infinite")
    probes = [probe for _, _, probe in notes.calls]
    answer_gradients = (
        torch.autograd.grad(losses.sum(), probes, allow_unused=True) if probes else ()
    )
    for each in calls.values():
        each.append([])
    for (name, inputs, probe), g in zip(notes.calls, answer_gradients, strict=True):
        g = torch.zeros_like(probe) if g is None else g
        if not bool(torch.isfinite(g).all()):
            raise HalutError(f"{name}: the loss's gradient holds NaN or infinite values")
        inputs = tuple(each.cpu() for each in inputs)
        calls[name][-1].append(LayerCall(inputs, g.detach().cpu(), notes.samples))


@torch.no_grad()
def taylor_score(
    source: nn.Module, layer: nn.Module, calls: Sequence[Sequence[LayerCall]]
) -> TaylorSums:
    """The score of `layer` in the place of the exact module `source`, with its errors there.

    `calls` are those of `gradients` for this layer; both modules are in evaluation mode.
    """
    sums = TaylorSums()
    device = next((p.device for p in layer.parameters()), torch.device("cpu"))
    for batch in calls:
        products: Tensor | None = None
        for call in batch:
            inputs = tuple(each.to(device) for each in call.inputs)
            y, exact = layer(*inputs), source(*inputs)
            sums.errors.add(y, exact)
            each = _products(y, exact, call.gradient.to(device), call.samples)
            products = each if products is None else products + each
        if products is not None:
            sums.add(products)
    return sums


def _products(y: Tensor, exact: Tensor, gradient: Tensor, samples: int) -> Tensor:
    """<g, y - exact> of each sample [samples], in blocks of about BLOCK entries."""
    rows = len(y) // samples
    size = rows * max(1, BLOCK * samples // max(1, y.numel()))
    parts = zip(y.split(size), exact.split(size), gradient.split(size), strict=True)
    products = [((a.float() - b.float()) * g).unflatten(0, (-1, rows)) for a, b, g in parts]
    return torch.cat([each.sum(tuple(range(1, each.ndim))) for each in products])
