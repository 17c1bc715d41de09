"""Batch-norm recalibration: running statistics of the network as it now stands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from halut.modes import evaluating


def recalibrate(network: nn.Module, batches: Iterable[Any]) -> int:
    """Replace the running mean and variance of every batch norm by averages over `batches`.

    A swap shifts the distributions behind it; the statistics of the exact network then fit badly.
    Only batch norms run in training mode, everything else in evaluation mode; momentum and modes
    are put back. Returns the number of batches used; 0 (nothing changed) without batch norms.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    momenta = {norm: norm.momentum for norm in norms}
    used = 0
    try:
        with evaluating(network) as device:
            for norm in norms:
                norm.train()
                norm.momentum = None  # cumulative average
            for batch in batches:
                if used == 0:
                    for norm in norms:
                        norm.reset_running_stats()
                network((batch[0] if isinstance(batch, tuple | list) else batch).to(device))
                used += 1
    finally:
        for norm in norms:
            norm.momentum = momenta[norm]
    return used
