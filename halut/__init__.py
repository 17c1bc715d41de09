"""halut: replace matrix products by look-up tables and cheaper formats, and retrain.

    plan = halut.replace_(network, halut.Tree(C=16), calibration=loader)
    optimizer = torch.optim.AdamW(halut.param_groups(network, lr=1e-3))
    halut.attach(optimizer, network, steps=1000)

The public names are imported when they are first used: importing halut imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import halut.errors
import halut.export  # noqa: F401  first, as the verbs of those names below take their places here

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path as _Path

    from torch import nn as _nn

    from halut import lightning, nn
    from halut.api import (
        attach,
        cost,
        load,
        load_into,
        plan_cost,
        plan_of,
        replace_,
        save,
    )
    from halut.configs import (
        MXINT8,
        PQ,
        ABCNet,
        Binary,
        BinaryResidual,
        BinaryScaling,
        BlockFP,
        BlockLog,
        BlockMinifloat,
        Chain,
        CodecConfig,
        DecisionTree,
        Exact,
        Integer,
        Log,
        LQNet,
        MinifloatDenorm,
        MinifloatIEEE,
        Prune,
        SignMagnitude,
        TableConfig,
        Tree,
    )
    from halut.errors import HalutError
    from halut.export.manifest import Export as _Export
    from halut.inference.prepare import prepare
    from halut.plugins import load_plugins
    from halut.replace.param_groups import param_groups
    from halut.replace.policy import Rule
    from halut.replace.recalibrate import recalibrate
    from halut.sites.calibration import calibrating
    from halut.sites.calls import Batches, Call
    from halut.sites.find import find_sites
    from halut.sites.plan import Plan

__version__ = "0.2.0.dev0"

__all__ = [
    "MXINT8",
    "PQ",
    "ABCNet",
    "Binary",
    "BinaryResidual",
    "BinaryScaling",
    "BlockFP",
    "BlockLog",
    "BlockMinifloat",
    "Call",
    "Chain",
    "CodecConfig",
    "DecisionTree",
    "Exact",
    "HalutError",
    "Integer",
    "LQNet",
    "Log",
    "MinifloatDenorm",
    "MinifloatIEEE",
    "Plan",
    "Prune",
    "Rule",
    "SignMagnitude",
    "TableConfig",
    "Tree",
    "attach",
    "calibrating",
    "cost",
    "errors",
    "export",
    "find_sites",
    "lightning",
    "load",
    "load_into",
    "load_plugins",
    "nn",
    "param_groups",
    "plan_cost",
    "plan_of",
    "prepare",
    "recalibrate",
    "replace_",
    "save",
]

_HOMES = {
    "HalutError": "halut.errors",
    "prepare": "halut.inference.prepare",
    "load_plugins": "halut.plugins",
    "param_groups": "halut.replace.param_groups",
    "Rule": "halut.replace.policy",
    "recalibrate": "halut.replace.recalibrate",
    "calibrating": "halut.sites.calibration",
    "Call": "halut.sites.calls",
    "find_sites": "halut.sites.find",
    "Plan": "halut.sites.plan",
    **dict.fromkeys(
        ("attach", "cost", "load", "load_into", "plan_cost", "plan_of", "replace_", "save"),
        "halut.api",
    ),
}
"""Modules of the public names; those of no entry are configurations."""
_MODULES = ("lightning", "nn")


def errors(network: _nn.Module, batches: Batches) -> Mapping[str, Mapping[str, float]]:
    """mae, mse, normalized_mse, cosine, ... of every replaced layer, by name.

    See halut.analysis.layer_errors.layer_errors.
    """
    from halut.analysis.layer_errors import layer_errors

    return layer_errors(network, batches)


def export(
    network: _nn.Module, example: Any, *, to: str, folder: str | _Path, **options: Any
) -> _Export:
    """The network as files that run elsewhere, verified by running them.

    See halut.export.writing.export.
    """
    from halut.export.writing import export as write

    return write(network, example, to=to, folder=folder, **options)


if not TYPE_CHECKING:  # or a type checker would take any name

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"halut.{name}")
        if name not in __all__:
            raise AttributeError(f"module 'halut' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES.get(name, "halut.configs")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
