"""`plugins=` of a command line, and of an experiment's file: read and imported before Hydra
composes, since what plugins register are choices of Hydra's groups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from halut.errors import HalutError
from halut.plugins import loading, reference
from halut.training.config import hydra_schemas

KEY = "plugins"
REFERENCES = ("model.name", "loss.teacher")
"""Options that may name a class or a function: module:Name."""
DIRECTORIES = ("--config-dir", "-cd")


def import_plugins(arguments: Sequence[str], trains: bool) -> tuple[list[str], list[str]]:
    """Import the plugins of installed packages and those a command line asks for.

    Returns the command line with one `plugins=[...]` of modules and absolute paths, and warnings:
    installed plugins that fail and, where it `trains`, plugins that bring nothing.
    Raises HalutError if a plugin that is asked for cannot be imported, HydraException for an option
    that cannot be read.
    """
    told = loading.load_entry_points()
    named, rest = asked(arguments)
    files = _of_experiments(rest)
    names = loading.load([*files, *named])
    referenced = " ".join(rest)
    unreferenced = [name for name in names if f"{Path(name).name}:" not in referenced]
    if trains:  # an evaluation may name a plugin for a class in it alone
        told += loading.without_entries(unreferenced)
    if loading.described():
        hydra_schemas.register()
    if names:
        # Where the first was: argparse takes no options after others that a flag interrupts.
        place = next(i for i, each in enumerate(arguments) if _key(each) in (KEY, "experiment"))
        rest.insert(place, f"{KEY}=[{','.join(map(_quoted, names))}]")
    return rest, told


def asked(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """The plugins that a command line names, and what else is on it.

    `plugins=A`, `plugins=[A,B]`: the last one counts; `+plugins=B` adds to those before.
    """
    names: list[str] = []
    rest: list[str] = []
    for argument in arguments:
        if _key(argument) != KEY:
            rest.append(argument)
            continue
        override = OverridesParser.create().parse_override(argument)
        given = _names(override)
        names = [*names, *given] if override.is_add() else given
    return names, rest


def _key(argument: str) -> str | None:
    """The option that an argument sets or adds to; None for any other argument."""
    key, equals, _ = argument.lstrip("+").partition("=")
    return key if equals else None


def _names(override: Override) -> list[str]:
    if override.is_sweep_override():
        raise HalutError(
            f"{override.input_line}: plugins are imported once, for all values of a sweep: "
            f"{KEY}=[A,B]"
        )
    return _listed(override.value(), str(override.input_line))


def _listed(value: Any, where: str) -> list[str]:
    names = [] if value in (None, "") else value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str):
            raise HalutError(f"{where}: names of modules or paths of .py files, got {name!r}")
    return list(names)


def _of_experiments(arguments: Sequence[str]) -> list[str]:
    """The plugins that the files of `experiment=NAME` name under `plugins:`."""
    folders = [Path(hydra_schemas.conf_dir())]
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        flag, _, value = argument.partition("=")
        if flag in DIRECTORIES:
            folders.append(Path(value or following))
    found: list[str] = []
    for argument in arguments:
        _, _, value = argument.partition("=")
        if _key(argument) != "experiment":
            continue
        for name in re.findall(r"[^\s,\[\]'\"]+", value):
            for folder in folders:
                path = folder / "experiment" / f"{name}.yaml"
                content = OmegaConf.load(path) if path.is_file() else None
                if isinstance(content, DictConfig):
                    plain: Any = OmegaConf.to_container(content)
                    found += _listed(plain.get(KEY), str(path))
    return found


def _quoted(name: str) -> str:
    """A name as Hydra reads it in a list."""
    if re.fullmatch(r"[\w./@+\-]+", name, flags=re.ASCII):
        return name
    text = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def with_absolute_references(config: DictConfig) -> None:
    """Give the options that name a class in a file that file's absolute path."""
    for key in REFERENCES:
        value = OmegaConf.select(config, key, throw_on_missing=False)
        if isinstance(value, str):
            OmegaConf.update(config, key, reference.absolute(value))
