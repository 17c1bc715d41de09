"""`module:Name` and `./file.py:Name`: a class or a function by where it is."""

from __future__ import annotations

from halut.errors import HalutError
from halut.plugins import loading


def split(name: str) -> tuple[str, str] | None:
    """(plugin, name in it), or None for a name that is no reference, as of a timm model.

    >>> split("my_module:MyNet")
    ('my_module', 'MyNet')
    >>> split("resnet50.a1_in1k") is None
    True
    """
    plugin, colon, attribute = name.rpartition(":")
    known = loading.is_file(plugin) or all(part.isidentifier() for part in plugin.split("."))
    return (plugin, attribute) if colon and attribute.isidentifier() and known else None


def absolute(name: str) -> str:
    """A reference into a file with that file's absolute path; any other name as it is."""
    parts = split(name)
    return name if parts is None else f"{loading.canonical(parts[0])}:{parts[1]}"


def resolve(name: str) -> object:
    """The class or function, its plugin imported; HalutError if that fails or it is not there."""
    parts = split(name)
    if parts is None:
        raise HalutError(f"{name!r}: write my_module:Name or ./my_file.py:Name")
    (plugin,) = loading.load([parts[0]])
    return loading.defined_in(loading.module_of(plugin), parts[1])


def permitted(name: str) -> str | None:
    """A reference that a file made by others holds, as one into a plugin that is imported already.

    The plugin of that name, or the one whose file or module is called alike; None if there is none.
    """
    parts = split(name)
    plugin = None if parts is None else loading.loaded_like(parts[0])
    return None if parts is None or plugin is None else f"{plugin}:{parts[1]}"
