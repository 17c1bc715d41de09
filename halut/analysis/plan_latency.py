"""Latency on this machine of what a plan makes of a network, before anything is really learned.

Layers are learned from the network's answers to random inputs, by the quick part of their learning
alone: codes are spread over the tables as they are in use, which decides what a look-up takes, and
the answers are worth nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from halut.analysis.latency import latency
from halut.analysis.timing import interleaved
from halut.inference.prepare import prepare, with_packed_layers
from halut.replace import swap
from halut.sites.attention import expose_attention
from halut.sites.calibration import capture
from halut.sites.plan import Entry, Plan
from halut.sites.usage import forwards

ROWS = 512
"""Rows that a layer is learned from."""
SAMPLES = 4
"""Random inputs that these are taken from, at least."""
QUICK: dict[str, Any] = {"ridge": None, "boosting": 0, "output_metric": False, "tau": 1.0}
"""Options of learning tables that decide neither shapes nor what runs."""
ROUNDS, SITE_ROUNDS = 15, 7


@torch.no_grad()
def plan_latency(
    network: nn.Module,
    plan: Plan,
    batch: int = 1,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Median milliseconds of a batch, by the exact network and by its replacement, prepared.

    `network` is the exact one of the plan, of any weights, on the CPU; it is not changed. All that
    is timed is taken in turns: on a busy machine only ratios say much. Returns {"batch", "threads",
    "ms": {"exact", "plan"}, "spread": likewise, "sites": {name: {"exact", "plan"}}}, the sites'
    layers alone at the shapes that they meet in the network. `progress` is called with 1 as a layer
    is learned. Codecs run as prepared networks have them: most multiply decoded floats.

    Raises HalutError where the plan's layers cannot be prepared.
    """
    exact = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    expose_attention(exact)
    shape = plan.model["input_shape"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = torch.randn(max(batch, SAMPLES), *shape)
        ready = _learned(exact, plan, x, seed, progress)
        x = x[:batch].clone()
        forms = with_packed_layers(copy.deepcopy(ready)).requires_grad_(False)
        names = [entry.site.name for entry in plan.replaced]
        inputs = _inputs(exact, names, x)
        sites = {}
        for name in names:
            arguments = inputs[name]
            layers = {"exact": exact.get_submodule(name), "plan": forms.get_submodule(name)}
            runs = {key: _call(layer, arguments) for key, layer in layers.items()}
            times = interleaved(runs, SITE_ROUNDS)
            sites[name] = {key: 1e3 * time.median for key, time in times.items()}
        prepared = prepare(ready, x)
    return {**latency({"exact": exact, "plan": prepared}, x, ROUNDS), "sites": sites}


def _learned(
    exact: nn.Module, plan: Plan, x: Tensor, seed: int, progress: Callable[[int], None] | None
) -> nn.Module:
    """A copy of the exact network whose sites are replaced, learned from its answers to x."""
    rows = capture(exact, [entry.site for entry in plan.replaced], [x], ROWS, seed=seed)
    network = copy.deepcopy(exact)
    for entry in plan.replaced:
        swap.replace_site(network, _quick(entry), rows.pop(entry.site.name), seed)
        if progress is not None:
            progress(1)
    return network.eval()


def _quick(entry: Entry) -> Entry:
    quick = {key: value for key, value in QUICK.items() if key in entry.options}
    return replace(entry, options={**entry.options, **quick}) if entry.has_tables else entry


def _inputs(network: nn.Module, names: list[str], x: Tensor) -> dict[str, tuple[Any, ...]]:
    """The arguments of the first call of every named module, for the batch x."""
    seen: dict[str, tuple[Any, ...]] = {}

    def wrap(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            seen.setdefault(name, (*args, *kwargs.values()))
            return forward(*args, **kwargs)

        return run

    with forwards({name: network.get_submodule(name) for name in names}, wrap):
        network(x)
    return seen


def _call(layer: nn.Module, arguments: tuple[Any, ...]) -> Callable[[], Any]:
    return lambda: layer(*arguments)
