"""Context manager for evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def eval_mode(network: nn.Module, hooks: Sequence[RemovableHandle] = ()) -> Iterator[torch.device]:
    """Evaluation mode, without gradients; yields the network's device.

    Afterwards every module has the mode it had before, and `hooks` are removed.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield next((p.device for p in network.parameters()), torch.device("cpu"))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
