"""The targets of exports, by name; a target's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from halut.errors import HalutError
from halut.export.difference import Difference
from halut.option import unknown
from halut.sites.calls import Call

TARGETS = {
    "bundle": "halut.export.bundles",
    "onnx": "halut.export.onnx.target",
    "torch": "halut.export.programs",
    "packed": "halut.export.packed",
}
"""Modules by the names of their targets; each is a Target."""


@dataclass(frozen=True)
class Written:
    """What a target wrote: how far its answers are from the network's (None: nothing to run), the
    versions of the packages that it depends on, and what else the manifest should say."""

    difference: Difference | None
    versions: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


class Target(Protocol):
    """A module that writes a network as files, and runs them."""

    Options: type
    """A dataclass of options, each with a default."""

    def write(self, network: nn.Module, example: Call, folder: Path, options: Any) -> Written:
        """Write files into the empty `folder`, read them again, run them on `example`.

        The network is on the CPU and in evaluation mode, and stays as it is. Raises HalutError
        naming a layer that the target has no form for, and where the answers are not the network's.
        """


def load_target(name: str) -> Target:
    """The module of a target; HalutError if there is none, or a package it needs is missing."""
    if name not in TARGETS:
        raise HalutError(unknown("target", name, TARGETS))
    try:
        module: Any = importlib.import_module(TARGETS[name])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "halut":
            raise
        raise HalutError(
            f"the target {name} needs {error.name}: pip install 'halut[export]'"
        ) from error
    return module
