"""Dispatch of operations to implementations: torch, compiled CPU kernels, CUDA."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from halut.errors import HalutError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Implementation:
    """One way to run an operation: on `devices` (all if empty), where `supports(*args)` holds and
    the first argument is of one of `dtypes` (of any if empty).

    `prepare`, if there is one, takes all arguments but the last, optional ones and answers what
    takes the first and those: the operation on like inputs, at less cost a call.
    """

    name: str
    run: Callable[..., Any]
    devices: tuple[str, ...] = ()
    supports: Callable[..., bool] | None = None
    prepare: Callable[..., Callable[..., Any]] | None = None
    dtypes: tuple[torch.dtype, ...] = ()

    def takes(self, *args: Any) -> bool:
        """True if it can run with these arguments."""
        fits = not self.dtypes or args[0].dtype in self.dtypes
        return fits and (self.supports is None or self.supports(*args))


_registered: dict[str, list[Implementation]] = {}
_forced: list[str] = []
_announced: set[tuple[str, str, str]] = set()


def implementation(
    operation: str,
    name: str,
    devices: tuple[str, ...] = (),
    supports: Callable[..., bool] | None = None,
    prepare: Callable[..., Callable[..., Any]] | None = None,
    dtypes: tuple[torch.dtype, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that registers a function as an implementation of `operation`.

    The implementation registered last is preferred; `supports` is asked with the call's arguments.
    """

    def add(run: Callable[..., Any]) -> Callable[..., Any]:
        registered = _registered.setdefault(operation, [])
        if any(entry.name == name for entry in registered):
            raise HalutError(f"operation {operation!r} already has an implementation {name!r}")
        registered.append(Implementation(name, run, devices, supports, prepare, dtypes))
        _candidates.cache_clear()
        return run

    return add


def run(operation: str, device: torch.device, *args: Any) -> Any:
    """Run the preferred implementation of `operation` on `device`, without autocast.

    The log names it the first time it runs. All in one function: a step of a small layer takes as
    long as a few calls in Python.
    """
    kind = device.type
    for entry in _candidates(operation, kind, _forced[-1] if _forced else None):
        if entry.dtypes and args[0].dtype not in entry.dtypes:
            continue
        if entry.supports is None or entry.supports(*args):
            break
    else:
        _refuse(operation, kind)
    if (operation, kind, entry.name) not in _announced:
        _announce(operation, kind, entry.name)
    if not torch.is_autocast_enabled(kind):
        return entry.run(*args)
    # Below the autograd key autocast is still on, and would round codes' distances.
    with torch.autocast(kind, enabled=False):
        return entry.run(*args)


def prepared(operation: str, device: torch.device, x: Any, *args: Any) -> Callable[..., Any]:
    """`run(operation, device, x, *args, *more)` as a function of x and the optional `more`.

    For inputs of x's shape, strides and dtype; what they do not change is worked out once, if the
    implementation can. Nothing of `args` may be moved in memory meanwhile.
    """
    entry = _chosen(operation, device, (x, *args))
    if entry.prepare is not None:
        return entry.prepare(x, *args)
    return lambda x, *more: run(operation, device, x, *args, *more)


def _chosen(operation: str, device: torch.device, args: tuple[Any, ...]) -> Implementation:
    for entry in _candidates(operation, device.type, forced_name()):
        if entry.takes(*args):
            if (operation, device.type, entry.name) not in _announced:
                _announce(operation, device.type, entry.name)
            return entry
    _refuse(operation, device.type)


def _refuse(operation: str, kind: str) -> NoReturn:
    name = forced_name()
    raise HalutError(
        f"no implementation of {operation} on {kind}" + (f" named {name!r}" if name else "")
    )


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
        if not args or entry.takes(*args)
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
    _announced.add((operation, device, name))
    # A preferred implementation that does not take the call is worth a line; the rest is in
    # `halut env`, and in one line of a run's log.
    preferred = _candidates(operation, device, forced_name())[0].name == name
    level = logging.DEBUG if preferred else logging.INFO
    logger.log(level, "%s runs on %s by %s", operation, device, name)
