"""Liveness checks: replaced layers are called, and the network's output depends on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from halut.errors import HalutError
from halut.sites.calls import Call, example_call
from halut.sites.eval_mode import eval_mode
from halut.sites.operator import ReplacedLayer
from halut.sites.usage import Forward, counting, forwards, same, seeded


def prove(network: nn.Module, example: Any, names: Sequence[str] | None = None) -> None:
    """Raise HalutError naming the replaced layers (of `names`, or all) that do not answer.

    The network is run on the example (as find_sites takes it, of any number of samples) in
    evaluation mode, with and without gradients, and without
    module hooks, which switch torch's fused paths off; then once for each layer with this layer's
    answers spoiled, which the network's answer must show. A layer that is passed by, as its weight
    is read by other code, or whose answer is thrown away, would be reported without ever running.
    """
    layers: dict[str, nn.Module] = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, ReplacedLayer) and (names is None or name in names)
    }
    with eval_mode(network) as device:
        x = example_call(network, example).to(device)
        for gradients in (False, True):
            counts = dict.fromkeys(layers, 0)
            with forwards(layers, counting(counts)), torch.set_grad_enabled(gradients):
                output = seeded(network, x)
            passed = [name for name, count in counts.items() if not count]
            how = "in training" if gradients else "in evaluation"
            _refuse(passed, f"{how} the network does not call what took their place")
            if not gradients:
                expected, again = output, seeded(network, x)
        idle = [name for name in layers if not _matters(network, x, expected, name, layers[name])]
        if same(again, expected, 0.0):  # else nothing can be told
            _refuse(idle, "the network's answer does not depend on what took their place")


def _refuse(names: list[str], reason: str) -> None:
    if names:
        keep = ",".join(names)
        raise HalutError(f"{', '.join(names)}: {reason}; keep them: policy.keep=[{keep}]")


def _matters(network: nn.Module, x: Call, expected: Any, name: str, layer: nn.Module) -> bool:
    """Whether NaN, or where that is not let through, negated answers of a layer are seen."""
    for spoil in (lambda y: y * float("nan"), lambda y: -1 - y):
        with forwards({name: layer}, _spoiling(spoil)):
            try:
                if not same(seeded(network, x), expected, 0.0):
                    return True
            except Exception:  # the network's own code found the answer to be no good: it saw it
                return True
    return False


def _spoiling(spoil: Any) -> Any:
    def wrap(name: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            return tree_map(
                lambda y: spoil(y) if isinstance(y, Tensor) else y, forward(*args, **kwargs)
            )

        return run

    return wrap
