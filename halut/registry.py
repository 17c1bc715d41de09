"""Named registries: one decorated class or function adds an entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from halut.errors import HalutError
from halut.option import unknown

Entry = TypeVar("Entry")


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

        def add(entry: Entry) -> Entry:
            if name in self._entries:
                raise HalutError(f"{self.noun} {name!r} is already registered")
            self._entries[name] = entry
            return entry

        return add

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
