"""What replaced layers do after every optimizer step, and what the optimizer forgets by that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.optim import Optimizer

from halut.sites.operator import ReplacedLayer


@torch.no_grad()
def after_step(
    layers: Iterable[ReplacedLayer], progress: float, optimizers: Sequence[Optimizer]
) -> None:
    """Call `after_step(progress)` of every layer; zero gradient and state of replaced rows.

    Momenta and moments are what has the parameter's shape in an optimizer's state. Those of a
    prototype that moved elsewhere would carry it off at once, as would the gradient, where it is
    stepped by another optimizer yet.
    """
    for layer in layers:
        for parameter, mask in layer.after_step(progress) or ():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0)
            for optimizer in optimizers:
                for value in optimizer.state.get(parameter, {}).values():
                    if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                        value.masked_fill_(mask, 0)
