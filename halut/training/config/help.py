"""Help pages: `--help` and `--help GROUP`.

Texts are those of the options' dataclasses, and the comments at the head of the files in conf/.
"""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf

from halut.data import schemas as schemas_of_data
from halut.models.builders import models
from halut.models.config import ModelConfig
from halut.option import default_of, unknown, why_without_effect
from halut.replace.operator_registry import about, config_type, operator_names
from halut.training.config.hydra_schemas import conf_dir, model_config, without_file
from halut.training.parallel.distributed import print_error

WIDTH = 79
NAMES = 30
"""Columns of an option's name and default."""


def page(name: str, schema: type, program: str, arguments: list[str]) -> str:
    """What `--help` prints: an overview, or the group named after it (GROUP, GROUP=CHOICE, all).

    Of an option with names from other packages, such as optim.optimizer, all of them.
    With nothing after it, the groups of the GROUP=CHOICE before it, where there are any.
    """
    plain = [each.lstrip("+") for each in arguments if not each.startswith("-")]
    places = [i for i, each in enumerate(arguments) if each in ("--help", "-h")]
    after = arguments[places[0] + 1 : places[0] + 2]
    selection = dict(each.split("=", 1) for each in plain if "=" in each)
    top = {field.name: field for field in dataclasses.fields(schema)}
    groups = [each for each in top if _is_group(top[each])]
    if not after or after[0].startswith("-"):
        asked = [each for each in selection if each in groups]
        if asked:
            return "\n".join(_group(name, schema, top, each, program, selection) for each in asked)
        return _overview(name, top, groups, program)
    if names := _names(top, after[0].partition("=")[0]):
        return names
    group_name = after[0].partition("=")[0].split(".")[0]
    if group_name == "all":
        return "\n".join(_group(name, schema, top, each, program, selection) for each in groups)
    presets = [group for group in _defaults(name) if group in _presets and group not in top]
    if group_name in presets:
        return (
            "\n".join([f"{group_name}: {_presets[group_name]}", "", *_described(group_name)]) + "\n"
        )
    if group_name == "hydra" or group_name not in top:
        _refuse("group", group_name, [*groups, *presets, "all"])
    if group_name not in groups:
        return _options([(group_name, top[group_name], default_of(top[group_name]))])
    return _group(name, schema, top, group_name, program, selection)


def _is_group(field: dataclasses.Field[Any]) -> bool:
    return field.name in ("data", "model", "halut") or dataclasses.is_dataclass(default_of(field))


def _overview(name: str, top: dict[str, Any], groups: list[str], program: str) -> str:
    config: Any = OmegaConf.load(Path(conf_dir()) / f"{name}.yaml")
    lines = [
        *_wrapped("", config.hydra.help.header.strip(), 0),
        "",
        f"usage: {program} [KEY=VALUE ...]",
        "",
    ]
    lines += ["groups (GROUP=CHOICE; default in brackets):"]
    defaults = _defaults(name)
    for group in dict.fromkeys([*groups, *[g for g in defaults if g not in groups]]):
        text = top[group].metadata["help"] if group in top else _presets[group]
        value = f" [{defaults[group]}]" if defaults.get(group) else ""
        lines += _wrapped(f"  {group}", f"{text}{value}", 14)
        if choices := _choices(group):
            lines += _wrapped("", ", ".join(choices), 16)
    group, choice = ("halut", "pq") if "halut" in groups else ("runtime", "eager")
    lines += ["", f"{program} --help {group}: the group {group} and its options;"]
    lines += [f"... --help {group}={choice}: those of one choice; --help all: every group", ""]
    lines += ["options:"]
    singles = [(each, top[each], default_of(top[each])) for each in top if each not in groups]
    lines += _options(singles).splitlines()
    lines += ["", *_wrapped("", _flags, 0), "", config.hydra.help.footer.rstrip(), ""]
    return "\n".join(lines)


_presets = {
    "experiment": "a whole experiment: sets options of several groups",
    "debug": "what helps to find a fault",
}
_flags = (
    "-m runs every value of KEY=A,B,C; --cfg job prints the configuration; --hydra-help tells "
    "Hydra's own flags. A model's further arguments: +model.options.KEY=VALUE."
)


def _defaults(name: str) -> dict[str, str | None]:
    """The choice of each group that NAME.yaml makes."""
    config: Any = OmegaConf.load(Path(conf_dir()) / f"{name}.yaml")
    entries = [dict(entry) for entry in config.defaults if OmegaConf.is_dict(entry)]
    pairs = {str(key): value for entry in entries for key, value in entry.items()}
    return {key: value for key, value in pairs.items() if not key.startswith("override")}


def _choices(group: str) -> list[str]:
    files = (path.stem for path in (Path(conf_dir()) / group).glob("*.yaml"))
    return sorted({*files, *without_file(group)})


def _refuse(kind: str, word: str, choices: list[str]) -> NoReturn:
    print_error(unknown(kind, word, choices))
    raise SystemExit(2)


def _described(group: str) -> list[str]:
    """A line for every choice of a group."""
    lines, choices = [], _choices(group)
    column = max(23, *(len(f"{group}={choice}") for choice in choices)) if choices else 0
    for choice in choices:
        text = textwrap.shorten(_about(group, choice), WIDTH - 3 - column, placeholder=" ...")
        lines.append(f"  {group + '=' + choice:{column}s} {text}".rstrip())
    return lines


def _group(
    name: str, whole: Any, top: dict[str, Any], group: str, program: str, selection: dict[str, str]
) -> str:
    """The choices of a group, a line each, and the options of the one that is chosen."""
    choices = _choices(group)
    choice = selection.get(group) or _defaults(name).get(group) or (choices[0] if choices else "")
    if choices and choice not in choices:
        _refuse(group, choice, choices)
    lines = [f"{group}: {top[group].metadata['help']}", ""]
    if group in selection:
        lines += _wrapped("", ", ".join(choices), 2)
    else:
        lines += _described(group)
    schema = _schema(top, group, choice)
    of = f" of {group}={choice}" if choices else ""
    others = f" (of another: {program} --help {group}=CHOICE)" if len(choices) > 1 else ""
    lines += [""] if choices else []
    lines += [
        f"options{of}{others}:",
        _options(_fields(whole, group, schema, choice, choices)).rstrip(),
    ]
    return "\n".join(lines) + "\n"


def _names(top: dict[str, Any], key: str) -> str | None:
    """An option, and the names that it takes from other packages; None if it takes none."""
    group, _, name = key.partition(".")
    schema = default_of(top[group]) if group in top else None
    fields = dataclasses.fields(schema) if dataclasses.is_dataclass(schema) else ()
    for field in fields:
        if field.name == name and field.metadata.get("names") is not None:
            lines = [_options([(key, field, default_of(field))]).rstrip()]
            for line in field.metadata["names"]():
                lines += ["", *textwrap.wrap(line, WIDTH, subsequent_indent="  ")]
            return "\n".join(lines) + "\n"
    return None


def _fields(whole: Any, group: str, schema: type, choice: str, choices: list[str]) -> list[Any]:
    """(key, field, default) of a group's options, one level of nested ones as well."""
    own: dict[str, Any] = {}
    if choices:
        own = {k: v for k, v in _settings(group, choice).items() if k not in ("defaults", group)}
    rows: list[Any] = []
    run = None if whole.trains else whole()
    for field in dataclasses.fields(schema) if dataclasses.is_dataclass(schema) else ():
        if run is not None and why_without_effect(run, f"{group}.{field.name}") == run.untrained():
            continue  # training runs alone read it
        default = own.get(field.name, default_of(field))
        key = f"{group}.{field.name}"
        if field.name == "name" and choices:
            if group == "model":
                rows.append((key, field, own.get("name", "???")))
        elif dataclasses.is_dataclass(default) and group != "halut":
            for inner in dataclasses.fields(default):
                rows.append((f"{key}.{inner.name}", inner, getattr(default, inner.name)))
        else:
            rows.append((key, field, _Nested() if dataclasses.is_dataclass(default) else default))
    return rows


def _settings(group: str, choice: str) -> dict[str, Any]:
    """What the file of a choice says; of a plugin's, which has none, what its schema says."""
    if choice not in without_file(group):
        loaded: Any = OmegaConf.to_container(OmegaConf.load(_file(group, choice)))
        return loaded or {}
    return dataclasses.asdict(model_config(choice)) if group == "model" else {}


class _Nested:
    """What stands for a codec of its own."""


def _schema(top: dict[str, Any], group: str, choice: str) -> Any:
    if group == "data":
        return schemas_of_data().get(choice) or schemas_of_data()["digits"]
    if group == "model":
        return ModelConfig
    if group == "halut":
        return config_type(choice) if choice in operator_names() else object
    return type(default_of(top[group]))


def _file(group: str, choice: str) -> Path:
    return Path(conf_dir()) / group / f"{choice}.yaml"


def _about(group: str, choice: str) -> str:
    """The comment that a file of conf/ begins with, else what its schema says of itself."""
    file = _file(group, choice)
    lines = file.read_text().splitlines() if choice not in without_file(group) else []
    text = " ".join(line.lstrip("# ") for line in lines if line.startswith("# ") and line != "")
    text = text.replace("@package _global_", "").strip()
    if not text and group == "halut" and choice in operator_names():
        text = about(choice)
    if not text and group == "data":
        text = (schemas_of_data()[choice].__doc__ or "").split("\n\n")[0].strip()
    if not text and group == "model" and choice in models:
        text = (models[choice].__doc__ or "").split("\n\n")[0].strip()
    return " ".join(text.split())


def _options(fields: list[Any]) -> str:
    """Name and default, text, choices: of each option."""
    lines: list[str] = []
    for key, field, default in fields:
        text = field.metadata.get("help", "")
        if choices := field.metadata.get("choices"):
            text += f" ({', '.join(choices)})"
        value = "" if isinstance(default, _Nested) else f"={_shown(default)}"
        lines += _wrapped(f"  {key}{value}", text, NAMES)
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if value is None or value is dataclasses.MISSING:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}: {v}" for k, v in value.items()) + "}"
    return str(value)


def _wrapped(name: str, text: str, column: int) -> list[str]:
    """`name`, and the text beside it from `column` on, below it where the name is longer."""
    lines = textwrap.wrap(text, WIDTH - column) or [""]
    if len(name) + 2 > column and name:
        return [name, *[" " * column + line for line in lines]] if text else [name]
    first = f"{name:{column}s}{lines[0]}".rstrip()
    return [first, *[" " * column + line for line in lines[1:]]]
