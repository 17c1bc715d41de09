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
    """One way to run an operation: on `devices` (all if empty), where `supports(*args)` holds.

    `prepare`, if there is one, takes all arguments but the last, optional ones and answers what
    takes the first and those: the operation on like inputs, at less cost a call.
    """

    name: str
    run: Callable[..., Any]
    devices: tuple[str, ...] = ()
    supports: Callable[..., bool] | None = None
    prepare: Callable[..., Callable[..., Any]] | None = None


_registered: dict[str, list[Implementation]] = {}
_forced: list[str] = []
_announced: set[tuple[str, str, str]] = set()


def implementation(
    operation: str,
    name: str,
    devices: tuple[str, ...] = (),
    supports: Callable[..., bool] | None = None,
    prepare: Callable[..., Callable[..., Any]] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that registers a function as an implementation of `operation`.

    The implementation registered last is preferred; `supports` is asked with the call's arguments.
    """

    def add(run: Callable[..., Any]) -> Callable[..., Any]:
        known = _registered.setdefault(operation, [])
        if any(entry.name == name for entry in known):
            raise HalutError(f"operation {operation!r} already has an implementation {name!r}")
        known.append(Implementation(name, run, devices, supports, prepare))
        _candidates.cache_clear()
        return run

    return add


def run(operation: str, device: torch.device, *args: Any) -> Any:
    """Run the preferred implementation of `operation` on `device`, without autocast.

    The log names it the first time it runs.
    """
    return _without_autocast(_chosen(operation, device, args).run, device.type, args)


def prepared(operation: str, device: torch.device, x: Any, *args: Any) -> Callable[..., Any]:
    """`run(operation, device, x, *args, *more)` as a function of x and the optional `more`.

    For inputs of x's shape, strides and dtype; what they do not change is worked out once, if the
    implementation can. Nothing of `args` may be moved in memory meanwhile.
    """
    entry = _chosen(operation, device, (x, *args))
    if entry.prepare is not None:
        return entry.prepare(x, *args)
    kind = device.type
    return lambda x, *more: _without_autocast(entry.run, kind, (x, *args, *more))


def _chosen(operation: str, device: torch.device, args: tuple[Any, ...]) -> Implementation:
    name = forced_name()
    for entry in _candidates(operation, device.type, name):
        if entry.supports is None or entry.supports(*args):
            _announce(operation, device.type, entry.name)
            return entry
    raise HalutError(
        f"no implementation of {operation} on {device.type}" + (f" named {name!r}" if name else "")
    )


def _without_autocast(run: Callable[..., Any], kind: str, args: tuple[Any, ...]) -> Any:
    if not torch.is_autocast_enabled(kind):
        return run(*args)
    # Below the autograd key autocast is still on, and would round codes' distances.
    with torch.autocast(kind, enabled=False):
        return run(*args)


def forced_name() -> str | None:
    """The name that alone may run, or None; see `forced`."""
    return _forced[-1] if _forced else None


def implementations(device: str = "cpu") -> dict[str, str]:
    """The preferred implementation of every operation on `device`, by operation."""
    return {
        operation: entries[0].name
        for operation in sorted(_registered)
        if (entries := _candidates(operation, device, forced_name()))
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
        # A preferred implementation that does not take the call is worth a line; the rest is in
        # `halut env`, and in one line of a run's log.
        preferred = _candidates(operation, device, forced_name())[0].name == name
        level = logging.DEBUG if preferred else logging.INFO
        logger.log(level, "%s runs on %s by %s", operation, device, name)
