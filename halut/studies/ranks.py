"""Ranks of one study: the first prepares what all need, they divide the work, it goes on alone."""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from halut.errors import HalutError
from halut.training.cluster import slurm
from halut.training.parallel.distributed import LEARNING_TIMEOUT, started_from_outside

Value = TypeVar("Value")
JOINING = datetime.timedelta(minutes=5)
"""In which all ranks have to be there."""
POLL = 0.2
"""Seconds after which a rank that waits looks whether another one is gone."""
LAUNCHED = (
    *("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
)
"""Variables by which training would take the ranks of a study for its own."""


class Ranks:
    """This process, `rank` of `size`, among those that were started together.

    Every network is trained by one process alone: torch.distributed's default group is never there.
    The ranks send each other two signals over gloo: the first rank, that what all need is ready;
    each other, that its share is done, and the first again, that all shares are. A rank that is
    gone closes its connections: whoever waits, or asks by `check`, then raises HalutError.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size, self._group = rank, size, group
        self._lost: str | None = None
        others = range(1, size) if rank == 0 else [0]
        signals = 1 if rank == 0 else 2
        self._signals = {peer: [threading.Event() for _ in range(signals)] for peer in others}
        for peer in others:
            threading.Thread(target=self._listen, args=(peer,), daemon=True).start()

    @classmethod
    def join(cls) -> Ranks:
        """The ranks that torchrun or srun has started; one alone where neither has.

        HalutError if they do not find each other.
        """
        slurm.export_torchrun_env()
        if not started_from_outside() or int(os.environ["WORLD_SIZE"]) == 1:
            return cls()
        try:
            store, rank, size = next(dist.rendezvous("env://", timeout=JOINING))
            prefix = dist.PrefixStore("halut studies", store)
            group = dist.ProcessGroupGloo(prefix, rank, size, LEARNING_TIMEOUT)
        except (RuntimeError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise HalutError(f"the ranks do not find each other: {line}") from error
        for name in [n for n in os.environ if n in LAUNCHED or n.startswith("TORCHELASTIC_")]:
            del os.environ[name]
        return cls(rank, size, group)

    def after_first(self, function: Callable[[], Value]) -> Value:
        """What `function` returns here, called on the other ranks when the first is through."""
        if self.rank > 0:
            self._wait(0, 0)
            return function()
        result = function()
        self._tell()
        return result

    def share(self, values: Sequence[Value]) -> list[Value]:
        """Every n-th value from the r-th on, on rank r of n."""
        return list(values[self.rank :: self.size])

    def finish(self) -> None:
        """Wait until every rank is through with its share."""
        if self.rank > 0:
            self._tell()
            self._wait(0, 1)
            return
        for peer in self._signals:
            self._wait(peer, 0)
        self._tell()

    def check(self) -> None:
        """Raise HalutError if another rank is gone."""
        if self._lost is not None:
            raise HalutError(
                f"another rank is gone ({self._lost}); what is measured is stored, and the same "
                "command goes on from there"
            )

    def _tell(self) -> None:
        """Send the next signal to those that wait for this rank."""
        for peer in self._signals:
            try:
                self._group.send([torch.zeros(1)], peer, 0).wait()
            except RuntimeError as error:
                self._lose(error)
                self.check()

    def _wait(self, peer: int, signal: int) -> None:
        while not self._signals[peer][signal].wait(POLL):
            self.check()

    def _listen(self, peer: int) -> None:
        for signal in self._signals[peer]:
            try:
                self._group.recv([torch.zeros(1)], peer, 0).wait()
            except RuntimeError as error:
                self._lose(error)
                return
            signal.set()

    def _lose(self, error: RuntimeError) -> None:
        words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
        told = [each for each in words if each in str(error)]
        self._lost = told[0] if told else str(error).splitlines()[0]
