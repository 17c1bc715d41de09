"""What overrides mean before anything is trained: configuration, network, plan and costs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from halut.analysis.energy import load_energies
from halut.analysis.network_cost import macs_outside
from halut.analysis.plan_cost import PLAN, plan_cost
from halut.analysis.plan_latency import plan_latency
from halut.errors import HalutError
from halut.replace import swap
from halut.replace.schedule import Stage
from halut.search.budget import LATENCY
from halut.sites.plan import Plan
from halut.studies.subject import compose
from halut.training.config.run_config import TrainConfig, plain_values
from halut.training.planning import make_plan
from halut.training.run import build_data_of, build_network_of, stages_of

NETWORKS = 8
"""Networks that are kept: those of a trial are asked for again and again, and then no more."""


class Planner:
    """Composes trials and builds their networks, the last few once, with data sets in memory."""

    def __init__(self) -> None:
        self._composed = lru_cache(_composed)
        self._built = lru_cache(NETWORKS)(self._build)
        self._latency = lru_cache(self._measure)
        self._data: dict[str, Any] = {}

    def config(self, overrides: Sequence[str]) -> TrainConfig:
        """The configuration; HalutError for what train.py refuses."""
        return self._composed(tuple(overrides))

    def plan(self, overrides: Sequence[str]) -> Plan:
        """The plan of the policy, on the network that is built."""
        return self._planned(overrides)[1]

    def _planned(self, overrides: Sequence[str]) -> tuple[nn.Module, Plan]:
        return self._built(tuple(overrides))

    def _build(self, overrides: tuple[str, ...]) -> tuple[nn.Module, Plan]:
        config = self.config(overrides)
        data = self.data(config)
        network = build_network_of(config, data)
        with contextlib.redirect_stdout(io.StringIO()):  # each layer that stays, each time
            return network, make_plan(config, network, data)

    def _measure(self, overrides: tuple[str, ...]) -> float:
        """Seconds of a sample by the planned network, prepared."""
        return float(plan_latency(*self._planned(overrides))["ms"]["plan"]) / 1e3

    def data(self, config: TrainConfig) -> Any:
        """The data set of a configuration, set up once."""
        key = json.dumps([plain_values(config.data), config.seed], default=str)
        if key not in self._data:
            self._data[key] = build_data_of(config)
        return self._data[key]

    def costs(self, overrides: Sequence[str], resources: Sequence[str]) -> dict[str, float]:
        """What the planned network costs of these resources (halut.search.budget.RESOURCES).

        Latency is measured, once for each set of overrides: seconds of one sample. HalutError for a
        plan whose layers cannot be prepared.
        """
        network, plan = self._planned(overrides)
        example = torch.zeros(1, *plan.model["input_shape"])
        outside = macs_outside(plan, network, example)
        cost = plan_cost(plan, network, load_energies(), variants=(PLAN,), macs_outside=outside)[0]
        costs = {name: float(value) for name, value in cost.figures.items() if value is not None}
        if LATENCY in resources:
            costs[LATENCY] = self._latency(tuple(overrides))
        return {name: costs[name] for name in resources}

    def built(self, overrides: Sequence[str]) -> str:
        """A digest of the network that is built: its structure, and what it answers."""
        config = self.config(overrides)
        network, plan = self._planned(overrides)
        torch.manual_seed(config.seed)
        example = torch.randn(2, *plan.model["input_shape"])
        torch.manual_seed(config.seed)
        with torch.no_grad():
            answer = network.train()(example)
        parts = (str(network), swap.digest(network), repr(answer.flatten().tolist()))
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def planned(self, overrides: Sequence[str]) -> str:
        """What becomes of each site, in words."""
        entries = [
            (entry.site.name, entry.operator, entry.options, entry.shares)
            for entry in self.plan(overrides)
        ]
        return json.dumps(entries, sort_keys=True, default=str)

    def stages(self, overrides: Sequence[str]) -> list[Stage]:
        """The schedule's stages; what a trained network tells of them is left open."""
        network, plan = self._planned(overrides)
        lost = dict.fromkeys((entry.site.name for entry in plan.replaced), 0.0)
        return stages_of(self.config(overrides), plan, network, lost)


def _composed(overrides: tuple[str, ...]) -> TrainConfig:
    config = compose(overrides)
    if config.trainer.devices > 1 or config.trainer.num_nodes > 1:
        raise HalutError(
            "a trial runs in one process: leave trainer.devices, and start the same command "
            "several times instead, each on a device of its own"
        )
    return config
