"""Benchmark of whole networks: all layers replaced but the first, the last and depthwise."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from halut.bench import inputs
from halut.bench.cpu import onednn
from halut.bench.cpu.layer import forced
from halut.bench.method import Method
from halut.bench.suites import Case
from halut.inference import prepare
from halut.inference.fold import fold
from halut.inference.int8 import int8_network
from halut.inference.onednn import available
from halut.inference.prepare import with_packed_layers
from halut.inference.trace import traced
from halut.models.build import PLUGIN, build_model, find_source
from halut.ops.core import dispatch
from halut.replace import swap
from halut.replace.policy import Rule, resolve, simple_rules
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.sites.plan import Plan

logger = logging.getLogger(__name__)

OURS_ERROR = 0.02
"""Rounding moves few inputs across thresholds, whose codes then change the answer a little."""
INT8_ERROR = 0.2
"""Errors of 8 bits add up over layers, the more as random weights average nothing out."""
IMAGES = 4
"""Images that norms, trees and ranges are calibrated on."""


def case_of(name: str, size: list[int] | None, quick: bool = False) -> Case:
    """The case of one network; its input is one image of 224 x 224, 32 x 32 for a local network
    or a plugin's.

    Raises HalutError with close names for one that nobody knows.
    """
    local = find_source(name) in (PLUGIN, "local")
    side = 8 if quick else 32 if local else 224
    B, channels, H, W = size or (1, 3, side, side)
    return Case("network", name, {"B": B, "channels": channels, "H": H, "W": W})


def methods(case: Case, int8_only: bool = False) -> list[Method]:
    """Ours and every baseline from an image to logits."""
    network, x = exact_network(case)
    reference = network(x)
    tables = prepare(replaced_network(case), x)
    run = forced("torch", lambda: tables(x))
    candidates = _both_formats("ours", tables, x, run(), OURS_ERROR)
    if not int8_only:
        if dispatch.implementations()["tree_layer"] != "torch":
            candidates.append(Method("ours_torch", run, run(), OURS_ERROR))
        candidates += _both_formats("float32", prepare(network, x), x, reference, 1e-3)
    candidates.append(ours_in_int8(case, x))
    if available():
        candidates += int8_methods(case, network, x, reference)
    return candidates


def ours_in_int8(case: Case, x: Tensor) -> Method:
    """Tables and, for what is kept exact, oneDNN's INT8 products: from uint8 to logits as INT8."""
    graph = fold(traced(with_packed_layers(copy.deepcopy(replaced_network(case)))))
    converted, grid = int8_network(graph, torch.cat([images(case), x]), bytes_in=True)
    q = grid.quantize(x).contiguous(memory_format=torch.channels_last)
    run = forced("torch", lambda: converted(q))
    return Method("ours_int8", lambda: converted(q), run(), OURS_ERROR)


def int8_methods(case: Case, network: nn.Module, x: Tensor, reference: Tensor) -> list[Method]:
    """The network in INT8, or none where torch.fx cannot follow it (the log says so)."""
    try:
        graph = fold(traced(copy.deepcopy(network)))
        converted, grid = int8_network(graph, torch.cat([images(case), x]), bytes_in=True)
    # Tracing and converting run code of any network: whatever it raises is the reason.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        logger.warning("%s: no INT8 network: %s: %s", case.suite, type(error).__name__, reason)
        return []
    q = grid.quantize(x).contiguous(memory_format=torch.channels_last)
    run: Callable[[], Tensor] = lambda: converted(q)  # noqa: E731
    notes: dict[str, Any] = {"kernels": onednn.kernels_of(run)}
    return [Method("int8", run, reference, INT8_ERROR, None, notes)]


def images(case: Case) -> Tensor:
    """Smooth random images, [IMAGES, channels, H, W]."""
    s = case.shape
    coarse = torch.randn(
        IMAGES, s["channels"], s["H"] // 8 + 1, s["W"] // 8 + 1, generator=inputs.generator(case)
    )
    return nn.functional.interpolate(coarse, (s["H"], s["W"]), mode="bilinear")


@functools.lru_cache(maxsize=1)
def exact_network(case: Case) -> tuple[nn.Module, Tensor]:
    """(the network with random weights and norms fitted to images, its input)."""
    classes = 10 if find_source(case.suite) in (PLUGIN, "local") else 1000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_model(case.suite, classes, case.shape["channels"])
    network.requires_grad_(False).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network(images(case))
    x = torch.cat([images(case)] * -(-case.shape["B"] // IMAGES))[: case.shape["B"]]
    return network.eval(), x.flip(2)  # not an image that anything was fitted to


@functools.lru_cache(maxsize=1)
def replaced_network(case: Case) -> nn.Module:
    """The network with tables learned from images."""
    network = copy.deepcopy(exact_network(case)[0])
    plan = plan_of(network, exact_network(case)[1][:1])
    sites = [entry.site for entry in plan.replaced]
    rows = capture(network, sites, [images(case)], rows=inputs.ROWS)
    for entry in plan.replaced:
        swap.replace_site(network, entry, rows[entry.site.name])
    return network.eval()


def plan_of(network: nn.Module, example: Tensor) -> Plan:
    """V = kh * kw for spatial kernels, V = 8 for 1x1 and linear layers."""
    sites, unsupported = find_sites(network, example)
    tables: dict[str, Any] = {"ridge": None}
    rules = [rule for rule in simple_rules(sites) if rule.operator == "keep"]
    rules.append(Rule(kind="spatial", operator="tree", options=tables))
    rules.append(Rule(operator="tree", options={**tables, "V": 8}))
    return resolve(sites, rules, "tree", tables, unsupported)


def _both_formats(
    name: str, network: nn.Module, x: Tensor, reference: Tensor, tolerance: float
) -> list[Method]:
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    return [
        Method(name, lambda: network(x), reference, tolerance),
        Method(f"{name}_channels_last", lambda: last(channels_last), reference, tolerance),
    ]
