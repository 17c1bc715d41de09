"""Latency of a batch beside another network's on the CPU, timed in turns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from halut.analysis.timing import interleaved


@torch.inference_mode()
def latency(networks: dict[str, nn.Module], x: Tensor, rounds: int = 15) -> dict[str, Any]:
    """Median milliseconds that each network takes for the batch x, all of them on the CPU.

    They answer in turns, so that a busy machine slows them alike: only their ratio says much.
    Returns {"batch", "threads", "ms": {name: median}, "spread": {name: see analysis.timing}}.
    """
    ready = {name: network.cpu().eval() for name, network in networks.items()}
    runs = {name: (lambda network=network: network(x)) for name, network in ready.items()}
    times = interleaved(runs, rounds)
    return {
        "batch": x.shape[0],
        "threads": torch.get_num_threads(),
        "ms": {name: 1e3 * time.median for name, time in times.items()},
        "spread": {name: time.spread for name, time in times.items()},
    }
