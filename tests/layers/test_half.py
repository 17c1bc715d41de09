"""Every operator's trained layers in float16, bfloat16 and float64, and under autocast."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from halut.replace import swap
from halut.replace.operator_registry import operator_names
from halut.replace.policy import resolve, simple_rules
from halut.sites.calibration import capture
from halut.sites.find import find_sites

VARIANTS = [
    *((name, {}) for name in operator_names()),
    *(
        ("tree", options)
        for options in (
            {"bits": None},
            {"scale": "layer"},
            {"scale": "codebook"},
            {"parameterization": "derived"},
            {"estimator": "identity"},
            {"estimator": "blend"},
        )
    ),
    ("pq", {"estimator": "identity"}),
    ("pq", {"estimator": "rotation"}),
    ("pq", {"estimator": "diveq", "parameterization": "derived"}),
    ("pq", {"bits": None, "parameterization": "derived"}),
    ("lqnet", {"contraction": "popcount"}),
    ("integer", {"contraction": "sign_magnitude"}),
]


def learned(name: str, options: dict) -> tuple[nn.Module, torch.Tensor]:
    """A convolution and a linear layer replaced, and their input."""
    made, x = LEARNED.get(str((name, options))) or _learned(name, options)
    LEARNED[str((name, options))] = made, x
    return copy.deepcopy(made), x


LEARNED: dict[str, tuple[nn.Module, torch.Tensor]] = {}


def _learned(name: str, options: dict) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), pooled, nn.Linear(8, 6))
    x = torch.randn(64, 3, 4, 4)
    sites, unsupported = find_sites(network, x[:1])
    rules = simple_rules(sites, keep_first=False, keep_last=False)
    plan = resolve(sites, rules, name, options, unsupported, {})
    for entry in plan.replaced:
        swap.replace_site(network, entry, capture(network, [entry.site], [x])[entry.site.name])
    return network.eval(), x


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_a_trained_network_answers_in_every_float_type(name, options):
    network, x = learned(name, options)
    with torch.no_grad():
        expected = network(x)
    for dtype, near in ((torch.float16, 0.05), (torch.bfloat16, 0.3), (torch.float64, 0.02)):
        cast = copy.deepcopy(network).to(dtype)
        answer = cast(x.to(dtype))
        assert answer.dtype == dtype
        difference = (answer.double() - expected).norm() / expected.norm()
        assert difference < near, f"{dtype}: {difference}"  # codes at a threshold may change
        answer.float().square().sum().backward()


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_a_network_trains_under_autocast(name, options):
    network, x = learned(name, options)
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network(x).float().square().sum()
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)
