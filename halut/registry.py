"""Named registries: one decorated class or function adds an entry.

Each registration is on record with its origin, the plugin or the module outside halut that made it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from halut.errors import HalutError
from halut.option import unknown

Entry = TypeVar("Entry")

FILES = "halut.plugins.file_modules"
"""The package whose modules are plugin files."""

_origins: dict[tuple[str, str], str] = {}
"""(noun, name) of every entry that halut did not bring: where it comes from."""
_importing: list[tuple[str, list[tuple[Registry[Any], str]]]] = []
"""The plugins that are being imported, the innermost last, each with what it has registered."""


class Registry(Mapping[str, Entry], Generic[Entry]):
    """A mapping from names to entries that says what it holds when a name is unknown.

    >>> encoders = Registry[type]("encoder")
    >>> @encoders.register("mine")
    ... class Mine: ...
    >>> encoders["mine"] is Mine
    True
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator that files its argument under `name`; a name is given once."""
        module = str(sys._getframe(1).f_globals.get("__name__", ""))

        if not (isinstance(name, str) and re.fullmatch(r"[\w.+-]+", name)):
            raise HalutError(
                f"{self.noun} {name!r}: a name is letters, digits and . _ + -, without spaces"
            )

        def add(entry: Entry) -> Entry:
            if name in self._entries:
                owner = _origins.get((self.noun, name), "halut")
                raise HalutError(f"{self.noun} {name!r} is already registered, by {owner}")
            self._entries[name] = entry
            self._attribute(name, module)
            return entry

        return add

    def _attribute(self, name: str, module: str) -> None:
        if module.startswith("halut.") and not module.startswith(f"{FILES}."):
            return  # halut's own, also where a plugin is the first that imports it
        origin = module
        if _importing:
            origin, entries = _importing[-1]
            entries.append((self, name))
        _origins[self.noun, name] = origin

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise HalutError(unknown(self.noun, name, sorted(self._entries)))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


@contextmanager
def attributed(origin: str) -> Iterator[None]:
    """What is registered inside has this origin; if the block raises, none of it stays."""
    entries: list[tuple[Registry[Any], str]] = []
    _importing.append((origin, entries))
    try:
        yield
    except BaseException:
        for registry, name in entries:
            registry._entries.pop(name, None)
            _origins.pop((registry.noun, name), None)
        raise
    finally:
        _importing.pop()


def origin_of(noun: str, name: str) -> str | None:
    """The plugin, or the module outside halut, that registered an entry; None: halut itself."""
    return _origins.get((noun, name))


def entries_of(origin: str) -> dict[str, list[str]]:
    """What a plugin, or any module of a package, has registered: names by noun."""
    own: dict[str, list[str]] = {}
    for (noun, name), where in sorted(_origins.items()):
        if where == origin or where.startswith(f"{origin}."):
            own.setdefault(noun, []).append(name)
    return own
