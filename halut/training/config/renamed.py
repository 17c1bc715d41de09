"""Options under their names of version 0.1: on the command line, and in YAML files.

Both are rewritten before Hydra composes, each with one warning: so the order in which files and the
command line override each other stays, and no schema has an option twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins import file_config_source, importlib_resources_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from halut.option import new_name, rule_with_new_names
from halut.training.parallel.distributed import warn

OVERRIDE = re.compile(r"(?P<sign>[+~]{0,2})(?P<key>[A-Za-z_][\w.]*)(?P<rest>(@[^=]*)?(=.*)?)", re.S)
SWEPT = "hydra.sweeper.params."
_shown: set[str] = set()


def with_new_keys(arguments: Sequence[str]) -> list[str]:
    """A command line whose overrides have the names of today; each old one is warned about."""
    return [_with_new_key(argument) for argument in arguments]


def _with_new_key(argument: str) -> str:
    match = OVERRIDE.fullmatch(argument)
    if match is None:
        return argument
    key = match["key"].removeprefix(SWEPT)
    if new_name(key) == key:
        return argument
    _warn(key)
    swept = SWEPT if key != match["key"] else ""
    return f"{match['sign']}{swept}{new_name(key)}{match['rest']}"


def with_new_rules(rules: Sequence[Any]) -> list[Any]:
    """policy.rules whose options have the names of today; each old one is warned about."""
    for rule in rules:
        options = rule.get("options") if isinstance(rule, dict) else None
        for key in options if isinstance(options, dict) else ():
            if new_name(f"halut.{key}") != f"halut.{key}":
                _warn(f"halut.{key}", "policy.rules")
    return [rule_with_new_names(rule) for rule in rules]


def _warn(key: str, file: str = "") -> None:
    where = f"{file}: " if file else ""
    line = f"{where}{key} is now {new_name(key)}; the old key goes in the next version"
    if line not in _shown:
        _shown.add(line)
        warn(line)


def _renamed(values: Any, path: str, file: str) -> Any:
    """A file's nested options under the names of today; `path` is their group, with a dot."""
    if isinstance(values, list):
        return [_renamed(value, path, file) for value in values]
    if isinstance(values, str):
        return re.sub(r"\$\{([\w.]+)\}", lambda m: f"${{{new_name(m[1])}}}", values)
    if not isinstance(values, dict):
        return values
    renamed = {}
    for key, value in values.items():
        full = f"{path}{key}"
        swept = full.removeprefix(SWEPT)
        if new_name(swept) != swept:
            _warn(swept, file)
            key = new_name(swept) if swept != full else new_name(full).removeprefix(path)
        renamed[key] = _renamed(value, f"{full}.", file)
    return renamed


def _with_new_names(result: ConfigResult, config_path: str, file: str) -> ConfigResult:
    """What Hydra loaded, under the names of today; untouched where no old name is in it."""
    if not isinstance(result.config, DictConfig) or OmegaConf.get_type(result.config) is not dict:
        return result
    group = config_path.rpartition("/")[0]
    package = result.header.get("package") or group
    package = package.replace("_global_", "").replace("_group_", group).replace("/", ".")
    plain = OmegaConf.to_container(result.config, resolve=False)
    renamed = _renamed(plain, f"{package}." if package else "", file)
    if renamed != plain:
        result.config = OmegaConf.create(renamed)
    return result


def _reading(source: type[ConfigSource]) -> type[ConfigSource]:
    """A source of Hydra's whose files may have old names; under its own name, as Hydra asks."""

    def load_config(self: Any, config_path: str) -> ConfigResult:
        result = source.load_config(self, config_path)
        return _with_new_names(result, config_path.removesuffix(".yaml"), f"{config_path}.yaml")

    return type(source.__name__, (source,), {"load_config": load_config})


def register() -> None:
    """Let Hydra read files with old names; safe to call again."""
    types = SourcesRegistry.instance().types
    sources: tuple[type[ConfigSource], ...] = (
        file_config_source.FileConfigSource,
        importlib_resources_config_source.ImportlibResourcesConfigSource,
    )
    for source in sources:
        known = types.get(source.scheme())
        if known is None or known is source:
            types[source.scheme()] = _reading(source)
