"""Data options recorded in a bundle's report, and their restoration."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from halut.bundle import missing_plugin
from halut.data import build as build_data
from halut.data import datasets
from halut.data.base import DataModule
from halut.errors import HalutError
from halut.io import read_json
from halut.option import why_without_effect
from halut.sites.plan import Plan
from halut.training.run_folder import MACHINE_OPTIONS

log = logging.getLogger("halut")


def settings_of(data: DataModule) -> dict[str, Any]:
    """What `report.json` keeps under data.settings: every option that decides the samples.

    Mean and standard deviation are those in use, also where they were measured on the data.
    """
    settings = {k: v for k, v in asdict(data.config).items() if k not in MACHINE_OPTIONS}
    for key in ("mean", "std"):
        if settings[key] is None:
            settings[key] = list(getattr(data, key))
    return settings


def data_of(
    report: Mapping[str, Any],
    options: Mapping[str, Any],
    keys: Collection[str],
    run: Any = None,
    plan: Plan | None = None,
) -> Any:
    """The data set of a bundle's report, set up; raises HalutError as data sets do.

    `options` is the configuration's data group: it may be of another data set (`name`), which then
    decides everything. `keys` are the fields named on the command line, which win over all; each
    must have an effect in the evaluation `run`, where there is one. The bundle's `plan` says which
    plugin has the data set.
    """
    recorded = report.get("data") or {}
    name = options.get("name") or recorded.get("name")
    if name is None:
        raise HalutError("the bundle's report does not name its data set; give data=NAME")
    if plan is not None and name not in datasets:
        for plugin, entries in plan.plugins.items():
            if name in entries.get("data set", ()):
                raise HalutError(missing_plugin(plugin, "data set", name, "the bundle"))
    settings = {"name": name, **{k: v for k, v in options.items() if v is not None}}
    if name == recorded.get("name"):
        settings |= recorded.get("settings") or {}
    settings |= {key: options[key] for key in keys if key in options}
    data = build_data(**{**_typed(name, settings), "name": name})
    for key in keys if run is not None else ():
        reason = why_without_effect(data.config, key, run)
        if reason is not None and options.get(key) not in (None, False):
            raise HalutError(f"data.{key}={options[key]} has no effect: {reason}")
    data.prepare_data()
    data.setup()
    _compare(data, recorded if name == recorded.get("name") else {})
    return data


def recorded_root(path: Path, name: str | None) -> str | None:
    """data.root of the run in the folder `path`, or of the run whose bundle it is, if that folder
    is here; None if it is not, or the run is not one of the data set `name`.
    """
    for folder in (path, path.parent):
        with contextlib.suppress(OSError, HalutError):  # a default alone: no reason to fail
            data = read_json(folder / "config.json", {"data": dict})["data"]
            root = data.get("root")
            if data.get("name") == name and isinstance(root, str):
                return root if Path(root).expanduser().is_dir() else None
    return None


def _compare(data: DataModule, recorded: Mapping[str, Any]) -> None:
    """HalutError if the classes are not those the network learned; a warning for other samples."""
    classes = recorded.get("classes") or data.class_names  # earlier reports have none
    for label, (recorded_name, name) in enumerate(zip(classes, data.class_names, strict=False)):
        if recorded_name != name:
            raise HalutError(
                f"data={data.config.name}: class {label} is {name!r}; the bundle's network learned "
                f"{recorded_name!r} there"
            )
    digests = recorded.get("digests")
    if digests and digests.get("test") != data.digests()["test"]:
        log.warning(
            "data.%s: the test split is not the one held out when the network was trained: it may "
            "hold samples that were trained on",
            data.config.name,
        )


def _typed(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings checked against the data set's schema."""
    schema = OmegaConf.structured(datasets[name].Config)
    try:
        merged = OmegaConf.merge(schema, OmegaConf.create(dict(settings)))
        fields = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise HalutError(f"data={name}: {str(error).splitlines()[0]}") from error
    assert isinstance(fields, dict)
    return {str(k): v for k, v in fields.items()}


def check_fits(data: Any, plan: Plan) -> None:
    """Raise HalutError unless the data set has the shape and classes of the plan's network."""
    shape, classes = plan.model.get("input_shape"), plan.model["num_classes"]
    if shape is not None and list(shape) != list(data.input_shape):
        raise HalutError(
            f"the bundle's network takes inputs {list(shape)}; data={data.config.name} gives "
            f"{list(data.input_shape)}"
        )
    if classes != data.num_classes:
        raise HalutError(
            f"the bundle's network has {classes} classes; data={data.config.name} has "
            f"{data.num_classes}"
        )
