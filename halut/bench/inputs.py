"""Random inputs distributed as a network's: activations after a ReLU, and layers learned on them.

Nothing is claimed about accuracy here. Weights are random; trees are learned from rows of the
activations by MADDNESS' algorithm, and tables are bucket means times the weights (no ridge
regression, whose size would dominate the benchmark's time), quantized to 8 bits per output.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halut.bench.suites import Case
from halut.encoders.tree import TreeEncoder
from halut.layers import LUTLayer
from halut.replace.operator_registry import make_operator
from halut.sites.calibration import patch_rows, row_count
from halut.sites.find import site_of

DESCRIPTION = (
    "random weights; maps are smoothed noise after a ReLU; trees learned from 1024 of their rows, "
    "tables are bucket means times weights, 8 bits, one scale per output, no ridge"
)
DRAWN = "layers alone have trees and tables that are drawn, not learned"
ROWS = 1024
"""Rows that trees are learned from."""


def generator(case: Case) -> torch.Generator:
    """Seeded by the case's shape: the same inputs in every process."""
    seed = 0
    for value in case.shape.values():
        seed = (seed * 31 + value) % (1 << 31)
    return torch.Generator().manual_seed(seed)


def activations(case: Case) -> Tensor:
    """A map [B, C_in, H, W], or rows [N, D], float32, of which about half are zero."""
    rng, s = generator(case), case.shape
    if "C_in" not in s:
        return torch.relu(torch.randn(s["N"], s["D"], generator=rng))
    coarse = torch.randn(s["B"], s["C_in"], (s["H"] + 3) // 4, (s["W"] + 3) // 4, generator=rng)
    smooth = F.interpolate(coarse, (s["H"], s["W"]), mode="bilinear", align_corners=False)
    return torch.relu(smooth + 0.5 * torch.randn(smooth.shape, generator=rng))


def exact_layer(case: Case) -> nn.Conv2d | nn.Linear:
    """The layer of the case's shape with random weights and a bias."""
    s = case.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(s["M"])
        if "C_in" in s:
            return nn.Conv2d(s["C_in"], s["M"], s["kernel"], s["stride"], padding=s["kernel"] // 2)
        return nn.Linear(s["D"], s["M"])


@functools.lru_cache(maxsize=1)
def learned_layer(case: Case) -> LUTLayer:
    """The table layer in place of `exact_layer(case)`, in evaluation mode."""
    exact = exact_layer(case)
    x = activations(_for_learning(case))
    site = site_of(case.name, exact, 1)
    indices = torch.randperm(row_count(x, site), generator=generator(case))[:ROWS]
    options = {"V": case.options["V"], "K": case.options.get("K", 16), "ridge": None}
    layer = make_operator("tree", **options).build(site, exact)
    assert isinstance(layer, LUTLayer)
    layer.calibrate(patch_rows(x, site, indices))
    return layer.eval()


def drawn_layer(case: Case) -> LUTLayer:
    """The same layer with nothing learned: trees and tables are drawn, which takes no time."""
    exact = exact_layer(case)
    options = {"V": case.options["V"], "K": case.options.get("K", 16), "ridge": None}
    layer = make_operator("tree", **options).build(site_of(case.name, exact, 1), exact)
    assert isinstance(layer, LUTLayer)
    assert isinstance(layer.encoder, TreeEncoder)
    rng, encoder = generator(case), layer.encoder
    narrowest = layer.blocks.D // layer.blocks.C
    with torch.no_grad():
        size = encoder.split_dims.shape
        encoder.split_dims.add_(torch.randint(narrowest, size, generator=rng))
        encoder.thresholds.copy_(torch.rand(encoder.thresholds.shape, generator=rng))
        layer.lut.copy_(torch.randn(layer.lut.shape, generator=rng))
    return layer.eval()


def _for_learning(case: Case) -> Case:
    """The same layer with about ROWS rows of its own: a case of one row would teach one code."""
    s = case.shape
    if "C_in" not in s:
        return replace(case, shape={**s, "N": ROWS})
    per_map = (s["H"] // s["stride"]) * (s["W"] // s["stride"])
    return replace(case, shape={**s, "B": -(-ROWS // per_map)})
