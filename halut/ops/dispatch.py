"""Which implementation of an operation runs: compiled kernels register beside the torch ones."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from halut.errors import HalutError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Implementation:
    """One way to run an operation: on `devices` (all if empty), where `supports(*args)` holds."""

    name: str
    run: Callable[..., Any]
    devices: tuple[str, ...] = ()
    supports: Callable[..., bool] | None = None


_registered: dict[str, list[Implementation]] = {}
_forced: list[str] = []
_announced: set[tuple[str, str, str]] = set()


def implementation(
    operation: str,
    name: str,
    devices: tuple[str, ...] = (),
    supports: Callable[..., bool] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that registers a function as an implementation of `operation`.

    The implementation registered last is preferred; `supports` is asked with the call's arguments.
    """

    def add(run: Callable[..., Any]) -> Callable[..., Any]:
        known = _registered.setdefault(operation, [])
        if any(entry.name == name for entry in known):
            raise HalutError(f"operation {operation!r} already has an implementation {name!r}")
        known.append(Implementation(name, run, devices, supports))
        _candidates.cache_clear()
        return run

    return add


def run(operation: str, device: torch.device, *args: Any) -> Any:
    """Run the preferred implementation of `operation` on `device`, without autocast.

    The log names it the first time it runs.
    """
    kind = device.type
    name = _forced[-1] if _forced else None
    for entry in _candidates(operation, kind, name):
        if entry.supports is None or entry.supports(*args):
            _announce(operation, kind, entry.name)
            if not torch.is_autocast_enabled(kind):
                return entry.run(*args)
            # Below the autograd key autocast is still on, and would round codes' distances.
            with torch.autocast(kind, enabled=False):
                return entry.run(*args)
    raise HalutError(
        f"no implementation of {operation} on {kind}" + (f" named {name!r}" if name else "")
    )


def implementations(device: str = "cpu") -> dict[str, str]:
    """The preferred implementation of every operation on `device`, by operation."""
    return {
        operation: entries[0].name
        for operation in sorted(_registered)
        if (entries := _candidates(operation, device, _forced[-1] if _forced else None))
    }


def available(operation: str, device: str = "cpu", *args: Any) -> list[str]:
    """The names of all implementations of `operation` on `device`, the preferred one first.

    With the call's arguments, of those only that support them.
    """
    return [
        entry.name
        for entry in _candidates(operation, device, None)
        if not args or entry.supports is None or entry.supports(*args)
    ]


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Within this context only the implementations called `name` run (tests and benchmarks)."""
    names = {entry.name for entries in _registered.values() for entry in entries}
    if name not in names:
        raise HalutError(f"unknown implementation {name!r}; choose one of: {sorted(names)}")
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


@functools.cache
def _candidates(operation: str, device: str, name: str | None) -> tuple[Implementation, ...]:
    """What may run, the preferred one first; found once, as a small layer takes microseconds."""
    return tuple(
        entry
        for entry in reversed(_registered[operation])
        if (not entry.devices or device in entry.devices) and name in (None, entry.name)
    )


def _announce(operation: str, device: str, name: str) -> None:
    if (operation, device, name) not in _announced:
        _announced.add((operation, device, name))
        logger.info("%s runs on %s by %s", operation, device, name)
