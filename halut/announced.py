"""Signals that come while the program is still being imported: noted, and answered by the run."""

from __future__ import annotations

import signal

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
received: list[int] = []


def listen() -> None:
    """Note SIGUSR1 and SIGUSR2 from now on; nobody's handler would be there yet to save a job."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: received.append(number))
