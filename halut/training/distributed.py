"""Ranks: who may write, how state travels, and how a command becomes several processes."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from halut.errors import HalutError
from halut.surgery import digest

LEARNING_TIMEOUT = datetime.timedelta(hours=6)


def rank() -> int:
    """This process's rank, 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True on the one rank that writes files and prints."""
    return rank() == 0


def started_from_outside() -> bool:
    """True if torchrun, srun or the like has given this process a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def start(accelerator: str) -> None:
    """Join the process group of the ranks started from outside; ranks wait long for learning."""
    if not started_from_outside() or dist.is_initialized():
        return
    cuda = torch.cuda.is_available() and accelerator not in ("cpu",)
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=LEARNING_TIMEOUT)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def share(value: Any) -> Any:
    """Rank 0's value (plain data), on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def share_state(network: nn.Module) -> None:
    """Overwrite every rank's parameters and buffers by rank 0's, then compare digests.

    Raises HalutError if a rank ends with another state.
    """
    if not dist.is_initialized():
        return
    backend_device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    with torch.no_grad():
        for tensor in network.state_dict().values():
            moved = tensor.detach().to(backend_device).contiguous()
            dist.broadcast(moved, src=0)
            tensor.copy_(moved)
    check_equal(network)


def check_equal(network: nn.Module) -> list[str]:
    """Every rank's digest of the network's state; raises HalutError unless they are the same."""
    digests: list[Any] = [digest(network)]
    if dist.is_initialized():
        digests *= world_size()
        dist.all_gather_object(digests, digests[0])
        if len(set(digests)) > 1:
            raise HalutError(f"the ranks hold different weights: {digests}")
    return digests


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run this command once per local device under torchrun; returns its exit code."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes), "-m", "halut.cli", "train", *arguments),
    ]
    return subprocess.call(command)
