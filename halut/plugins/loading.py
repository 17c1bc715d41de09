"""Imports plugins: modules by name, files by path, and what installed packages announce."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from halut.errors import OURS, HalutError
from halut.option import unknown
from halut.plugins.file_modules import module_name
from halut.registry import attributed, entries_of, origin_of

log = logging.getLogger("halut")

GROUP = "halut.plugins"
"""Entry points of this group are plugins."""

_modules: dict[str, ModuleType] = {}
"""The plugins that were asked for, or announced, and imported, by their names."""
_packages: dict[str, str] = {}
"""The installed package of each plugin that is an entry point."""
_failures: dict[str, str] = {}
"""Entry points that could not be imported, and why."""


def load_plugins(*plugins: str | Path) -> dict[str, dict[str, list[str]]]:
    """Import plugins: code that registers encoders, codecs, models or data sets.

    Args:
        plugins: names of modules, which may lie in the working directory, and paths of .py files;
            a file is imported once, whatever it is called by. None: those that installed packages
            announce in the entry point group `halut.plugins`; one that fails is left out, which is
            logged in one line.

    Returns what each has registered: {plugin: {"encoder": [names], "codec": [...], ...}}.
    Raises HalutError if a plugin is not there, raises while it is imported (none of its entries
    stay then), or registers a name that is taken.

    >>> import halut
    >>> halut.load_plugins("./mine.py")  # doctest: +SKIP
    {'/home/me/mine.py': {'encoder': ['samples']}}
    """
    if not plugins:
        for message in load_entry_points():
            log.warning("%s", message)
        return described()
    names = load(plugins)
    for message in without_entries(names):
        log.warning("%s", message)
    return {name: registered(name) for name in names}


def load(plugins: Iterable[str | Path], beside: bool = True) -> list[str]:
    """Import modules and files, each once; returns their names, those of files absolute paths.

    `beside`: modules are looked for in the working directory as well. Raises as load_plugins does.
    """
    names = list(dict.fromkeys(canonical(plugin) for plugin in plugins))
    for name in names:
        if name not in _modules:
            _modules[name] = _imported(name, beside)
    return names


def without_entries(names: Iterable[str]) -> list[str]:
    """A line for each plugin that has registered nothing."""
    return [
        f"plugin {name} registers nothing: no encoder, codec, model or data set"
        for name in names
        if not registered(name)
    ]


def load_entry_points() -> list[str]:
    """Import the plugins of installed packages; a line for each that fails, for the first time."""
    told = []
    for each in entry_points(group=GROUP):
        name, package = each.value, _package(each)
        if name in _modules or name in _failures:
            continue
        try:
            if ":" in name or not _is_module(name):
                raise HalutError(f"plugin {name}: an entry point of {GROUP} names a module")
            _modules[name] = _imported(name, beside=False)
            _packages[name] = package
        except HalutError as error:
            _failures[name] = f"{error} (of the package {package})"
            told.append(f"left out: {_failures[name]}")
    return told


def described() -> dict[str, dict[str, list[str]]]:
    """What every plugin of this process has registered."""
    return {name: registered(name) for name in _modules}


def asked_for() -> list[str]:
    """The plugins that have registered something and that no installed package announces."""
    return [name for name in _modules if name not in _packages and registered(name)]


def registered(name: str) -> dict[str, list[str]]:
    """What an imported plugin has registered, also where its module came under another name."""
    module = _modules[name]
    return next(filter(None, map(entries_of, (name, module.__name__, _file_of(module)))), {})


def lines() -> dict[str, str]:
    """Every plugin in words, also those that were left out."""
    told = {}
    for name in _modules:
        entries = [f"{noun} {', '.join(names)}" for noun, names in registered(name).items()]
        package = [f"of the package {_packages[name]}"] if name in _packages else []
        told[name] = "; ".join([*(entries or ["nothing registered"]), *package])
    return {**told, **{name: f"left out: {why}" for name, why in _failures.items()}}


def canonical(plugin: str | Path) -> str:
    """The name of a plugin: of a module as it is, of a file its absolute path, links resolved.

    Raises HalutError if it is neither, or if there is no such file.
    """
    if not isinstance(plugin, str | os.PathLike):
        raise HalutError(f"plugins: names of modules or paths of .py files, got {plugin!r}")
    text = os.fspath(plugin)
    if not is_file(text) and isinstance(plugin, str):
        if not _is_module(text):
            raise HalutError(
                f"plugin {text!r} is neither the name of a module nor a file: write my_module or "
                "./my_file.py"
            )
        return text
    path = Path(text).expanduser()
    if path.suffix != ".py":
        raise HalutError(f"plugin {text} is no Python file: its name must end with .py")
    if not path.is_file():
        raise HalutError(f"plugin {text}: {'it is no file' if path.exists() else 'no such file'}")
    return str(path.resolve())


def is_file(text: str) -> bool:
    """True for the path of a file, False for the name of a module."""
    return text.endswith(".py") or os.sep in text


def loaded_like(name: str) -> str | None:
    """The imported plugin of that name; else the one whose file or module is called alike."""
    if name in _modules:
        return name
    alike = [each for each in _modules if _stem(each) == _stem(name)]
    return alike[0] if len(alike) == 1 else None


def module_of(name: str) -> ModuleType:
    """The module of an imported plugin."""
    return _modules[name]


def fingerprint(noun: str, name: str) -> str | None:
    """SHA-256 of the source file that registered an entry; None for entries of halut."""
    origin = origin_of(noun, name)
    return None if origin is None else source_digest(origin)


def source_digest(plugin: str) -> str:
    """SHA-256 of a plugin's file, of its name where a module has none."""
    known = _modules.get(plugin) or sys.modules.get(plugin)
    file = plugin if is_file(plugin) else getattr(known, "__file__", None)
    if file is None or not Path(file).is_file():
        return sha256(plugin.encode()).hexdigest()
    return sha256(Path(file).read_bytes()).hexdigest()


def _stem(name: str) -> str:
    return Path(name).stem if is_file(name) else name.rpartition(".")[2]


def _is_module(text: str) -> bool:
    return bool(text) and all(part.isidentifier() for part in text.split("."))


def _package(point: EntryPoint) -> str:
    found = point.dist
    return f"{found.name} {found.version}" if found is not None else "unknown"


def _imported(name: str, beside: bool) -> ModuleType:
    """The module of a canonical name, imported; HalutError in one line if that fails."""
    importlib.invalidate_caches()
    if is_file(name):
        if (known := _module_of_file(name)) is not None:
            return known
        with _told(name, module_name(Path(name))):
            return importlib.import_module(module_name(Path(name)))
    if beside:
        _look_beside(name.split(".")[0])
    with _told(name, name), attributed(name):
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        file = spec.origin if spec is not None else None
        known = _module_of_file(str(Path(file).resolve())) if file is not None else None
        return known or importlib.import_module(name)


def _module_of_file(path: str) -> ModuleType | None:
    """The module that this very file is imported as already, under whatever name."""
    modules = [each for each in list(sys.modules.values()) if isinstance(each, ModuleType)]
    return next((each for each in modules if _file_of(each) == path), None)


def _file_of(module: ModuleType) -> str:
    """The absolute path of a module's source; "" if it has none."""
    file = vars(module).get("__file__")
    return os.path.abspath(file) if isinstance(file, str) else ""


def _look_beside(top: str) -> None:
    """Let modules of the working directory be found, after all others."""
    here = os.getcwd()
    if top in sys.modules or here in sys.path or importlib.util.find_spec(top) is not None:
        return
    if Path(here, f"{top}.py").is_file() or Path(here, top).is_dir():
        sys.path.append(here)


@contextmanager
def _told(name: str, module: str) -> Iterator[None]:
    """What an import raises, as a HalutError; modules that it left half done are forgotten."""
    before = set(sys.modules)
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, too: a plugin does not end the program
        for each in set(sys.modules) - before:
            if each == module or each.startswith(f"{module}."):
                del sys.modules[each]
        raise HalutError(f"plugin {name} {_why(name, error)}") from error


def _why(name: str, error: BaseException) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and not is_file(name) and f"{name}.".startswith(f"{missing}."):
        return (
            f"is not found: no module {missing!r} is installed or in the working directory; a file "
            "is written ./my_file.py"
        )
    if isinstance(error, HalutError):
        said = " ".join(str(error).split())
    elif isinstance(error, SystemExit):
        said = f"ends the program while it is imported: SystemExit({error.code!r})"
    else:
        text = " ".join(str(getattr(error, "msg", None) or error).split())
        said = f"cannot be imported: {type(error).__name__}: {text}".rstrip(": ")
    place = _place(error)
    return f"{said} ({place}; debug=traceback shows more)" if place else said


def _place(error: BaseException) -> str | None:
    """FILE:LINE of the last line outside halut and Python's import system."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*OURS, "<frozen"))
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def defined_in(module: ModuleType, name: str) -> object:
    """The class or function `name` that a plugin itself defines; HalutError naming its others.

    What a module merely imports is not its own: a bundle that may build the networks of a plugin
    reaches nothing else through it.
    """
    own = {
        key: value
        for key, value in vars(module).items()
        if callable(value) and _is_within(getattr(value, "__module__", None), module.__name__)
    }
    if name not in own:
        public = sorted(key for key in own if not key.startswith("_"))
        if hasattr(module, name):
            raise HalutError(f"{name!r} is no class or function that {_name(module)} defines")
        raise HalutError(unknown(f"class or function of {_name(module)}", name, public))
    return own[name]


def _is_within(home: str | None, module: str) -> bool:
    return home is not None and f"{home}.".startswith(f"{module}.")


def _name(module: ModuleType) -> str:
    return next((name for name, each in _modules.items() if each is module), module.__name__)
