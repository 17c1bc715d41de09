"""Signal handling of a run: checkpoint, exit and requeue.

SIGUSR1 and SIGUSR2 announce a time limit or a preemption (`sbatch --signal`, submitit, `scancel
--signal`): the run saves its place, requeues its job, and ends. SIGTERM comes from those who see to
the rest themselves: the run saves its place and ends. No other part of the program requeues.

While a fit runs a signal is only noted, and answered after the step by all ranks together. At other
times everything worth keeping is on disk, and the run ends where it stands. Handlers stay for the
life of the process, so that a signal that comes late, after the run, ends nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from halut.training.cluster import early_signals, slurm
from halut.training.parallel import distributed

SIGNALS = (*early_signals.SIGNALS, signal.SIGTERM)
RESUME_HINT = "the same command with the same run_dir continues"
REQUEUE_GRACE_SECONDS = 60.0
"""Seconds that the other ranks wait for the main one to requeue the job, which ends them."""


class Interrupted(BaseException):
    """The run was told to end, and has saved its place. Not an error that a sweep may swallow."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class SignalHandler:
    """The process' signal state. `state` is idle (no run), running, fitting or leaving."""

    def __init__(self) -> None:
        self.state = "idle"
        self.received = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """What every signal of SIGNALS does."""
        if self.state == "leaving":
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        # An announcement that has come is not overruled by the SIGTERM that follows it.
        self.received = self.received or number
        if self.state == "running":
            self.raise_if_received()

    def install(self) -> None:
        """Make this the handler; again where Lightning has put its own in front."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self.handle)

    def raise_if_received(self) -> None:
        """Raise Interrupted, once, if a signal has come."""
        if self.received:
            number, self.received = self.received, 0
            raise Interrupted(number)

    @contextlib.contextmanager
    def during_run(self) -> Iterator[None]:
        """A run may be ended where it stands. Outside SLURM, old handlers come back afterwards."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        self.state = "running"
        if early_signals.received:
            self.received = self.received or early_signals.received.pop()
            early_signals.received.clear()
        try:
            self.raise_if_received()
            yield
        finally:
            self.state = "idle"
            if slurm.job() is None and threading.current_thread() is threading.main_thread():
                self.received = 0
                for number, handler in before.items():
                    signal.signal(number, handler)

    @contextlib.contextmanager
    def during_fit(self) -> Iterator[None]:
        """A fit must be ended between two steps: `LastCheckpoint` asks `received` there."""
        outer, self.state = self.state, "fitting"
        try:
            yield
        finally:
            self.state = outer
        if outer == "running":
            self.raise_if_received()


signal_handler = SignalHandler()


def requeue_or_exit(stop: Interrupted, requeue: bool, limit: int) -> int:
    """Requeue the job if the signal asks for it, say what happens next; returns the exit code."""
    signal_handler.state = "leaving"
    code = 128 + stop.number
    if stop.number not in early_signals.SIGNALS or not requeue:
        distributed.print_error(f"ended by {stop}; {RESUME_HINT}")
        return code
    refusal = slurm.why_not_requeue(limit)
    if refusal is None and not distributed.is_main():
        time.sleep(
            REQUEUE_GRACE_SECONDS
        )  # requeueing ends this process; to end before would end the others
        return code
    refusal = refusal or slurm.requeue()
    if refusal is None:
        print(f"ended by {stop}; job {slurm.job()} is in the queue again", flush=True)
    else:
        distributed.print_error(f"ended by {stop}, not requeued: {refusal}; {RESUME_HINT}")
    return code
