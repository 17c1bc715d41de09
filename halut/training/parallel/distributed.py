"""Process groups, collectives and launching of ranks."""

from __future__ import annotations

import datetime
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from halut.errors import HalutError, reason
from halut.replace.swap import digest

Value = TypeVar("Value")
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


def print_error(message: str) -> None:
    """One message on the standard error, whole, without a traceback.

    The other ranks give the first time to say the same and to end them all.
    """
    message = " ".join(message.split("\n"))
    if is_main():
        print(f"error: {message}", file=sys.stderr, flush=True)
    else:
        time.sleep(5)
        print(f"error on rank {rank()}: {message}", file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """One line on the standard error, before logging is set up; the main rank's alone."""
    if is_main():
        print(f"warning: {message}", file=sys.stderr, flush=True)


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


def comm_device() -> str:
    """The kind of device whose tensors the ranks exchange."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def all_gather_objects(value: Value) -> list[Value]:
    """Every rank's value, by rank."""
    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def maximum(*values: int) -> list[int]:
    """The largest of each value over all ranks."""
    if world_size() == 1:
        return list(values)
    largest = torch.tensor(values, device=comm_device())
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return [int(value) for value in largest]


def broadcast_from_rank0(function: Callable[[], Value]) -> Value:
    """What `function` returns on rank 0, on every rank; there alone it runs.

    What it raises for want of better input is raised there, and elsewhere as a HalutError.
    """
    if not dist.is_initialized():
        return function()
    box: list[Any] = [None, None]
    if is_main():
        try:
            box[0] = function()
        except Exception as error:
            box[1] = reason(error)
            if box[1] is not None:
                dist.broadcast_object_list(box, src=0)
            raise
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise HalutError(box[1])
    return box[0]


def run_on_all_ranks(function: Callable[[], Value]) -> Value:
    """What `function` returns here; all ranks run it. An error that has a reason is all ranks'."""
    if world_size() == 1:
        return function()
    error, result = None, None
    try:
        result = function()
    except Exception as refusal:
        error = reason(refusal)
        if error is None:
            raise
    errors = all_gather_objects(error)
    if any(errors):
        raise HalutError(next(filter(None, errors)))
    return cast(Value, result)


def device_of(accelerator: str) -> torch.device:
    """Where this rank captures and recalibrates: its GPU if there is one and it may be used."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def share_state(network: nn.Module, owner: int = 0) -> None:
    """Overwrite every rank's parameters and buffers by the owner's, then compare digests.

    Raises HalutError if a rank ends with another state.
    """
    if not dist.is_initialized():
        return
    _overwrite(network.state_dict().values(), owner)
    check_equal(network)


def share_buffers(network: nn.Module) -> None:
    """Give every rank rank 0's buffers: running statistics are each rank's own while it trains."""
    if world_size() == 1:
        return
    _overwrite(network.buffers(), owner=0)


@torch.no_grad()
def _overwrite(tensors: Iterable[Tensor], owner: int) -> None:
    for tensor in tensors:
        buffer = tensor.detach().to(comm_device()).contiguous()
        dist.broadcast(buffer, src=owner)
        tensor.copy_(buffer)


def check_equal(network: nn.Module) -> list[str]:
    """Every rank's digest of the network's state; raises HalutError unless they are the same."""
    digests = all_gather_objects(digest(network))
    if len(set(digests)) > 1:
        raise HalutError(f"the ranks hold different weights: {digests}")
    return digests


def peer_disconnected(error: Exception) -> str | None:
    """What the error says of another rank that has gone; None if this one did wrong."""
    if not dist.is_initialized() or not isinstance(error, RuntimeError):
        return None
    for words in ("Connection closed by peer", "Connection reset by peer", "Broken pipe"):
        if words in str(error):
            return words
    return type(error).__name__ if isinstance(error, dist.DistError) else None


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run this command once per local device by torchrun's launcher; returns the exit code.

    If one process fails the others are stopped; what failed has said so itself.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(settings, sys.executable)("-m", "halut.cli", "train", *arguments)
    except SignalException as stop:  # the ranks had it, too, and said what happens next
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    return 0
