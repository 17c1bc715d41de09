"""Small networks with learned tables, to prepare."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from halut.models.build import build_model
from halut.replace import swap
from halut.replace.policy import resolve, simple_rules
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.sites.plan import Plan

NETWORKS = {  # name: (input size, options of its builder)
    "resnet8": ((1, 12, 12), {"width": 4}),
    "resnet9": ((3, 16, 16), {"width": 4}),
    "resnet20": ((3, 12, 12), {"width": 4}),
    "ds_cnn": ((1, 20, 16), {"width": 8, "depth": 2}),
    "tiny_vit": ((3, 8, 8), {"dim": 16, "depth": 2, "heads": 2}),
    "resnet18": ((3, 32, 32), {"channels": (4, 8, 8, 8), "source": "timm"}),
}


def network_of(name: str) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode, its norms as after training, and five inputs."""
    torch.manual_seed(0)
    size, options = NETWORKS[name]
    network = build_model(name, 10, size[0], **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    x = torch.randn(5, *size)
    for _ in range(20):
        network(x)  # running statistics
    return network.eval(), x


def replaced(
    network: nn.Module, x: Tensor, operator: str = "tree", options: dict | None = None, **short
) -> tuple[nn.Module, Plan]:
    """All sites swapped for tables learned from x, K = 8 unless told; thresholds off the data.

    A learned threshold lies in the middle between two inputs, so rounding moves few codes.
    """
    defaults = {"keep_first": False, "keep_last": False, "keep_depthwise": False}
    sites, unsupported = find_sites(network, x[:1])
    rules = simple_rules(sites, **{**defaults, **short})
    plan = resolve(sites, rules, operator, {"K": 8, **(options or {})}, unsupported)
    rows = capture(network, [e.site for e in plan.replaced], [x])
    for entry in plan.replaced:
        swap.replace_site(network, entry, rows[entry.site.name][:512])
    return network.eval(), plan


def gap(ours: Tensor, theirs: Tensor) -> float:
    """Median over the samples of ||ours - theirs|| / ||theirs||.

    The median: where rounding moves an input across a threshold a sample's answer changes.
    """
    errors = (ours - theirs).flatten(1).float().norm(dim=1)
    return float((errors / theirs.flatten(1).float().norm(dim=1)).median())
