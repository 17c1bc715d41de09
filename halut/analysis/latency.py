"""How long a batch takes, beside another network: on the CPU, the two in turns."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

SECONDS = 2.0
"""About how long one network is timed in all."""
ROUNDS = (5, 200)
"""The least and the most rounds."""


@torch.inference_mode()
def latency(networks: dict[str, nn.Module], x: Tensor) -> dict[str, Any]:
    """Median milliseconds that each network takes for the batch x, all of them on the CPU.

    They answer in turns, so that a busy machine slows them alike: only their ratio says much.
    Returns {"batch", "threads", "rounds", "ms": {name: median}}.
    """
    for network in networks.values():
        network.cpu().eval()
        network(x)  # memory, and the kernels chosen
    first = sum(_seconds(network, x) for network in networks.values())
    rounds = min(max(int(SECONDS * len(networks) / first), ROUNDS[0]), ROUNDS[1])
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds):
        for name, network in networks.items():
            times[name].append(_seconds(network, x))
    return {
        "batch": x.shape[0],
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "ms": {name: 1e3 * statistics.median(found) for name, found in times.items()},
    }


def _seconds(network: nn.Module, x: Tensor) -> float:
    start = time.perf_counter()
    network(x)
    return time.perf_counter() - start
