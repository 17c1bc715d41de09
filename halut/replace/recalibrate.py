"""Batch-norm recalibration: running statistics of the network as it now stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.hooks import RemovableHandle

from halut.errors import HalutError
from halut.sites.calls import Batches, Call, batch_call, is_loop
from halut.sites.eval_mode import eval_mode
from halut.sites.usage import Forward, forwards


def recalibrate(network: nn.Module, batches: Batches) -> int:
    """Replace the running mean and variance of every batch norm by averages over `batches`.

    A swap shifts the distributions behind it; the statistics of the exact network then fit badly.
    Only batch norms run in training mode, everything else in evaluation mode; momentum and modes
    are put back. `batches` as capture takes them: a forward loop calls the network itself. Returns
    the number of calls used; 0 (nothing changed) without batch norms, or if there is but one
    sample: a single sample has no variance, and joins the next batch.
    """
    norms = running_norms(network)
    if not norms:
        return 0
    momenta = {norm: norm.momentum for norm in norms}
    used = 0

    def counting(name: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal used
            if used == 0:
                for norm in norms:
                    norm.reset_running_stats()
            used += 1
            return forward(*args, **kwargs)

        return run

    try:
        with eval_mode(network) as device:
            for norm in norms:
                norm.train()
                norm.momentum = None  # cumulative average
            with forwards({"": network}, counting):
                if is_loop(batches):
                    batches(network)  # type: ignore[operator]
                else:
                    for call in _no_lone(network, batches):
                        call.to(device)(network)
    finally:
        for norm in norms:
            norm.momentum = momenta[norm]
    return used


def running_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms that keep a running mean and variance."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _no_lone(network: nn.Module, batches: Any) -> Iterator[Call]:
    """The batches' calls; a single sample goes with the next batch, or not at all."""
    last: Call | None = None
    for batch in batches:
        call = batch_call(network, batch)
        if last is not None and last.samples == 1:
            last = _joined(last, call)
            continue
        if last is not None:
            yield last
        last = call
    if last is not None and last.samples > 1:
        yield last


def _joined(a: Call, b: Call) -> Call:
    """One call with the samples of both: tensors as long as their batches are concatenated."""
    samples = iter([(t, t.ndim > 0 and len(t) == a.samples) for t in a.tensors])

    def join(t: Tensor) -> Tensor:
        first, cut = next(samples)
        return torch.cat([first, t]) if cut and t.ndim and len(t) == b.samples else t

    return b.map(join)


def check_norms(network: nn.Module, example: Tensor, share: int) -> None:
    """Raise HalutError, naming the layer, for norms that would have one value per channel.

    `example`: one sample [1, ...]; `share`: samples of a training batch on each process. Torch
    refuses to train with them, as a value alone has no variance.
    """
    lone: list[str] = []

    def look(name: str, module: nn.Module) -> RemovableHandle:
        per_sample = isinstance(module, _InstanceNorm)

        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if (per_sample or share == 1) and inputs[0][0].numel() == inputs[0].shape[1]:
                lone.append(name)

        return module.register_forward_pre_hook(note)

    kinds = (_BatchNorm, _InstanceNorm)
    hooks = [look(name, m) for name, m in network.named_modules() if isinstance(m, kinds)]
    with eval_mode(network, hooks) as device:
        network(example.to(device))
    if lone:
        raise HalutError(
            f"{lone[0]}: a norm sees one value per channel where a training batch has {share} "
            "sample(s) on each process; give data.batch_size=2 or more for each, or larger inputs"
        )
