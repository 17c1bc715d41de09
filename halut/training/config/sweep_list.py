"""A file that lists the configurations of a sweep."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from halut.errors import HalutError
from halut.training.config.renamed import with_new_keys

YAML_SUFFIXES = (".yaml", ".yml")
NOT_IN_A_LIST = ("hydra", "run_dir", "results", "plugins", "sweep")
"""Options of a whole sweep, which none of its configurations has for itself."""


def read_list(path: Path | str) -> list[list[str]]:
    """The overrides of every configuration.

    A text file has a configuration a line, as on a command line, with # before a comment; a .yaml
    file a list of such lines, or of lists of overrides. Overrides with several values stand for
    their product. Raises HalutError, naming the line or entry, for what is no override, and for a
    configuration that stands there twice.

    >>> read_list("conf.txt")  # halut=tree halut.C=8,16
    [['halut=tree', 'halut.C=8,16']]
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise HalutError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise HalutError(f"{path}: no text: {error}") from error
    read = _of_yaml if path.suffix in YAML_SUFFIXES else _of_text
    entries: dict[str, list[str]] = {}
    places: dict[tuple[str, ...], str] = {}
    for place, words in read(path, text).items():
        _check(place, words)
        key = tuple(sorted(words))
        if key in places:
            raise HalutError(f"{place} has the configuration of {places[key]} again")
        places[key] = place
        entries[place] = with_new_keys(words)
    if not entries:
        raise HalutError(f"{path} lists no configuration")
    return list(entries.values())


def _of_text(path: Path, text: str) -> dict[str, list[str]]:
    entries = {}
    for number, line in enumerate(text.splitlines(), 1):
        place = f"{path}, line {number}"
        if words := _words(place, line):
            entries[place] = words
    return entries


def _of_yaml(path: Path, text: str) -> dict[str, list[str]]:
    try:
        content: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise HalutError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, list):
        raise HalutError(f"{path}: a list of configurations is wanted, not {content!r:.40}")
    entries = {}
    for number, entry in enumerate(content, 1):
        place = f"{path}, entry {number}"
        if isinstance(entry, str):
            entries[place] = _words(place, entry)
        elif isinstance(entry, list) and all(isinstance(each, str) for each in entry):
            entries[place] = entry
        else:
            raise HalutError(f"{place}: overrides KEY=VALUE are wanted, not {entry!r:.60}")
    return entries


def _words(place: str, line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise HalutError(f"{place}: {error}") from error


def _check(place: str, words: list[str]) -> None:
    if not words:
        raise HalutError(f"{place}: no override")
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except HydraException as error:
        raise HalutError(f"{place}: {' '.join(str(error).split())}") from error
    for override in overrides:
        key = override.get_key_element().lstrip("+~")
        if key.partition(".")[0].partition("/")[0] in NOT_IN_A_LIST:
            raise HalutError(f"{place}: {key} is the whole sweep's: give it on the command line")
