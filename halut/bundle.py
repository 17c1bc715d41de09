"""Bundles: a folder others can load, of tensors and JSON alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from halut.analysis.run_figures import normalized_mse_of
from halut.analysis.variants import COLUMNS, variant_cells, variants
from halut.codecs import codecs
from halut.encoders import encoders
from halut.errors import HalutError
from halut.io import read_json, reading, write_bytes, write_json
from halut.models.build import build_model
from halut.models.builders import models
from halut.models.weights import load_weights, save_weights
from halut.plugins import loading, reference
from halut.registry import Registry, origin_of
from halut.replace import swap
from halut.replace.ptq import describe
from halut.sites.modules import restored_on_error
from halut.sites.operator import operators
from halut.sites.plan import Plan

log = logging.getLogger("halut")

Plugins = bool | str | Path | Sequence[str | Path]
"""Plugins that whoever loads a bundle lets it use: their names; True: those that it names itself,
imported; False or none: none but those that are imported already."""
REGISTRIES: dict[str, Registry[Any]] = {
    each.noun: each for each in (encoders, codecs, operators, models)
}
"""The registries whose entries a bundle names, by what an entry is called."""


def save_bundle(path: Path, network: nn.Module, plan: Plan, report: dict[str, Any]) -> None:
    """Write model.safetensors, plan.json, report.json and README.md (the card) into `path`."""
    path.mkdir(parents=True, exist_ok=True)
    plan = with_plugins(plan)
    save_weights(path / "model.safetensors", network.state_dict())
    plan.save(path / "plan.json")
    write_json(path / "report.json", report)
    write_bytes(path / "README.md", card(plan, report).encode())


def load_bundle(path: Path, plugins: Plugins = ()) -> tuple[nn.Module, Plan, dict[str, Any]]:
    """The network with its operators, its plan and its report, from a bundle or a run folder.

    Builds the exact network by name, replays the plan, loads strictly; learns nothing again.
    Raises HalutError if a file is missing, damaged, or of another version or network, or if it
    needs a plugin that neither `plugins` names nor anyone has imported.
    """
    path = Path(path)
    plan = read_plan(path, plugins)
    with reading(_folder(path) / "plan.json"):
        network = exact_network(plan)
    fill(network, plan, path)
    return network.eval(), plan, _report(_folder(path) / "report.json")


def read_plan(path: Path, plugins: Plugins = ()) -> Plan:
    """The plan of a bundle or a run folder, its plugins imported as far as `plugins` lets it.

    Raises HalutError if it is neither, or if a plugin is missing.
    """
    for name in ("plan.json", "model.safetensors"):
        if not (_folder(path) / name).exists():
            raise HalutError(
                f"{path} is neither a bundle nor a finished run: it has no {name}{_reached(path)}"
            )
    plan = Plan.load(_folder(path) / "plan.json")
    admit(plan, path, plugins)
    return plan


def plan_of_file(path: str | Path) -> Plan:
    """A plan.json for another network of the same sites; HalutError if a plugin is missing."""
    plan = Plan.load(Path(path))
    check_plugins(replace(plan, model={}), f"plan={path}")
    return plan


def with_plugins(plan: Plan, data: str | None = None) -> Plan:
    """The plan with what its operators, its network and the data set `data` need of plugins."""
    used = [*_names(plan), *([("data set", data)] if data is not None else [])]
    plugins = {plugin: dict(entries) for plugin, entries in plan.plugins.items()}
    for noun, name in used:
        parts = reference.split(name) if noun == "model" else None
        origin = origin_of(noun, name) if parts is None else parts[0]
        if origin is not None:
            entries = plugins.setdefault(origin, {})
            entries[noun] = sorted({*entries.get(noun, []), name})
    return replace(plan, plugins=plugins)


def _names(plan: Plan) -> Iterator[tuple[str, str]]:
    """(noun, name) of every entry of a registry that a plan may mean."""
    for entry in plan.replaced:
        yield from ((noun, entry.operator) for noun in ("encoder", "codec", "operator"))
        yield from (("codec", name) for name in _codecs(entry.options))
    if plan.model.get("name") is not None:
        yield "model", str(plan.model["name"])


def _codecs(options: Any, key: str = "") -> Iterator[str]:
    """The names of codecs within an operator's options."""
    if isinstance(options, dict):
        for name, value in options.items():
            yield from _codecs(value, name)
    elif isinstance(options, list):
        for value in options:
            yield from _codecs(value, key)
    elif key in ("name", "codecs") and isinstance(options, str):
        yield options


def admit(plan: Plan, where: str | Path, plugins: Plugins = ()) -> None:
    """Import the plugins that a plan made by others may use; nothing that only the plan asks for.

    Raises HalutError, naming a plugin and how to let the plan use it, if one is missing.
    """
    if plugins is True:
        for plugin in dict.fromkeys(plugin for plugin, _, _ in _missing(plan)):
            if loading.is_file(plugin) and not Path(plugin).is_absolute():
                raise HalutError(f"{where} names the plugin {plugin!r}, which is no absolute path")
            log.info("importing the plugin %s, which %s names", plugin, where)
            loading.load([plugin], beside=False)
    elif plugins:
        loading.load([plugins] if isinstance(plugins, str | Path) else plugins)
    check_plugins(plan, where)


def check_plugins(plan: Plan, where: str | Path) -> None:
    """Raise HalutError if the plan needs a plugin that is not imported."""
    for plugin, noun, name in _missing(plan):
        raise HalutError(missing_plugin(plugin, noun, name, where))


def missing_plugin(plugin: str, noun: str, name: str, where: str | Path) -> str:
    """That a plugin is needed, and how to let a bundle use it."""
    if plugin == "__main__":
        return (
            f"{where} needs the {noun} {name!r}, which a script registered: register it before the "
            "bundle is loaded, or make it a plugin"
        )
    return (
        f"{where} needs the plugin {plugin}, for the {noun} {name!r}, and imports none by itself: "
        f"say plugins=[{plugin}] on the command line, halut.load(..., plugins=[{plugin!r}]) in "
        "Python"
    )


def _missing(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """(plugin, noun, name) of what the plan says it needs and nothing has registered."""
    used = set(_names(plan))
    for plugin, entries in plan.plugins.items():
        for noun, names in entries.items():
            for name in names:
                unknown = noun in REGISTRIES and name not in REGISTRIES[noun]
                if unknown and (noun, name) in used and reference.split(name) is None:
                    yield plugin, noun, name
    name = str(plan.model.get("name", ""))
    parts = reference.split(name)
    if parts is not None and reference.permitted(name) is None:
        yield parts[0], "model", name


def _reached(path: Path) -> str:
    """What an unfinished run has of its stages, in words."""
    stages = sorted(path.glob("stage_*/stage.json"))
    if not stages:
        return ""
    last = read_json(stages[-1], {})
    accuracy = last.get("val_accuracy_after_training")
    suffix = f", validation {accuracy:.2f}" if isinstance(accuracy, int | float) else ""
    count = f"{len(stages)} stage{'s are' if len(stages) > 1 else ' is'}"
    return f"; {count} finished{suffix}, and the command that began it goes on"


def fill(network: nn.Module, plan: Plan, path: Path) -> None:
    """Give the exact network the plan's operators, and the weights of a bundle or a run folder.

    If they do not fit, the network is as it was.
    """
    with restored_on_error(network, [entry.site.name for entry in plan.replaced]):
        with reading(_folder(path) / "plan.json"):
            swap.apply(network, plan)
        load_weights(network, _folder(path) / "model.safetensors")


def _folder(path: Path) -> Path:
    return path / "bundle" if (path / "bundle").is_dir() else path


def _report(path: Path) -> dict[str, Any]:
    """A bundle's report, {} if it has none; what others read of it has the type it should."""
    if not path.exists():
        return {}
    report: dict[str, Any] = read_json(path, {})
    with reading(path):
        for part in ("data", "final", "base", "baseline", "ptq"):
            section = _object(part, report.get(part))
            entries = section.values() if part == "ptq" else [section]
            for entry in entries if part != "data" else []:
                for key, value in _object(part, entry).items():
                    if key.endswith("_accuracy") and not isinstance(value, int | float | None):
                        raise TypeError(f"{part}.{key} is no number")
        data = _object("data", report.get("data"))
        if not isinstance(data.get("name"), str | None):
            raise TypeError("data.name is no text")
        _object("data.settings", data.get("settings"))
        for split, count in _object("data.evaluated", data.get("evaluated")).items():
            if not isinstance(count, int):
                raise TypeError(f"data.evaluated.{split} is no number")
    return report


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise TypeError(f"{name} is no object")
    return value or {}


def exact_network(plan: Plan) -> nn.Module:
    """The plan's network before any replacement, with random weights."""
    m = plan.model
    if not m:
        raise HalutError(
            "the plan does not say how to build its network, which no registry holds: give "
            "halut.load a factory of the exact network, or use halut.load_into"
        )
    for key in ("name", "num_classes", "in_channels"):
        if key not in m:
            raise HalutError(f"the plan does not say how to build its network: model.{key} missing")
    source, options = m.get("source", "auto"), m.get("options", {})
    name = m["name"]
    if reference.split(name) is not None:
        check_plugins(plan, "the plan")
        name = reference.permitted(name)
    return build_model(name, m["num_classes"], m["in_channels"], source=source, **options)


def card(plan: Plan, report: dict[str, Any]) -> str:
    """A model card in Markdown."""
    model = plan.model
    name, count = model.get("name", "Network"), len(plan.replaced)
    lines = [
        f"# {name}, {count} of {len(plan.entries)} layers replaced",
        "",
        f"| variant | {' | '.join(COLUMNS)} |",
        f"|---|{'---:|' * len(COLUMNS)}",
        *(f"| {row['variant']} | {' | '.join(variant_cells(row))} |" for row in variants(report)),
        "",
        *(f"- {name.upper()}: {describe(entry)}" for name, entry in report.get("ptq", {}).items()),
        *([f"- data: {report['data'].get('name')}"] if "data" in report else []),
        *([f"- made by: `{report['command']}`"] if "command" in report else []),
        "",
        "| site | operator | normalized error |",
        "|---|---|---|",
    ]
    if "sites" in report:
        sites = [(s["name"], s["operator"], normalized_mse_of(s)) for s in report["sites"]]
    else:
        sites = [(entry.site.name, entry.operator, "") for entry in plan.replaced]
    lines += [f"| {name} | {operator} | {error} |" for name, operator, error in sites]
    own = f", plugins={list(plan.plugins)}" if plan.plugins else ""
    verb = f"halut.load(FOLDER{own})" if model else f"halut.load_into(network, FOLDER{own})"
    lines += ["", f"Load with `{verb}`."]
    return "\n".join(lines) + "\n"
