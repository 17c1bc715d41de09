"""The target `bundle`: safetensors, plan, report and card, for halut.load."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
from torch import nn

from halut.api import plan_of
from halut.bundle import fill, save_bundle
from halut.errors import HalutError
from halut.export.difference import difference
from halut.export.targets import Written
from halut.inference.verify import answer_of
from halut.sites.calls import Call
from halut.sites.plan import Plan


@dataclass(kw_only=True)
class Options:
    """plan, report: those of the run, where the network is one's; model: arguments of
    halut.models.build.build_model that build the exact network, for a folder that loads without a
    factory."""

    plan: Plan | None = None
    report: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)


def write(network: nn.Module, example: Call, folder: Path, options: Options) -> Written:
    """model.safetensors, plan.json, report.json, README.md; loaded into a copy whose weights are
    zero, which has to answer the network's bits."""
    plan = options.plan if options.plan is not None else plan_of(network, options.model)
    if not plan.entries:
        raise HalutError("the network has no replaced layers; one that is prepared has none left")
    save_bundle(folder, network, plan, options.report)
    twin = copy.deepcopy(network)
    for tensor in twin.state_dict().values():
        tensor.zero_()
    fill(twin, Plan.load(folder / "plan.json"), folder)
    found = difference(answer_of(twin, example), answer_of(network, example), example.samples)
    if not found.equal:
        raise HalutError(f"the bundle answers otherwise than the network: {found}")
    return Written(found, {"safetensors": safetensors.__version__})
