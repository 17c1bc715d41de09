"""Signal handlers installed before the imports; the run answers what they record.

Until a run takes over, and wherever nobody else answers it, Ctrl-C ends the process with one line.
"""

from __future__ import annotations

import os
import signal
import sys
from types import TracebackType

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
received: list[int] = []


def install_signal_handlers() -> None:
    """Note SIGUSR1 and SIGUSR2 from now on; nobody's handler would be there yet to save a job."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: received.append(number))
    sys.excepthook = report_uncaught


def report_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What Python does with an error that nobody caught; of Ctrl-C one line and exit code 130."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("error: interrupted", file=sys.stderr, flush=True)
    os._exit(130)
