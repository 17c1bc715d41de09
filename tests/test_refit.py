"""Kept layers fitted to the exact network's answers, against least squares written out."""

import copy

import pytest
import torch
from torch import nn

from halut.errors import HalutError
from halut.replace.refit import DAMPING, behind, refit
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.sites.plan import Entry

LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (40, 6)),
    "no bias": (lambda: nn.Linear(6, 4, bias=False), (40, 6)),
    "conv": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (8, 3, 9, 9)),
    "grouped": (lambda: nn.Conv2d(4, 6, 1, groups=2), (8, 4, 5, 5)),
}


def case(kind, channels_last=False):
    """layer, its site, rows as they are, and those of the exact network."""
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    network = nn.Sequential()
    network.add_module("here", make())
    if channels_last and len(shape) == 4:
        network.to(memory_format=torch.channels_last)
    x = torch.randn(shape)
    (site,), _ = find_sites(network, x)
    rows = [
        capture(network, [site], [each])["here"] for each in (0.6 * x + 0.3 * x.roll(1, 0) + 0.2, x)
    ]
    return network.here, site, *rows


def solution(layer, site, rows, targets, W, damping):
    """Weight [M, D] and bias of least damped error, by one least-squares problem per group."""
    before = layer.weight.detach().reshape(site.groups, -1, site.D).double()
    weights, biases = [], []
    for g in range(site.groups):
        span = slice(g * site.D, (g + 1) * site.D)
        X, T = rows[:, span].double(), targets[:, span].double()
        wanted = T @ W.view(site.groups, -1, site.D)[g].T.double()
        ones = torch.ones(len(X), 1).double() if layer.bias is not None else X[:, :0]
        power = (X - X.mean(0) if layer.bias is not None else X).square().sum(0).mean()
        ridge = (damping * power).sqrt() * torch.eye(site.D).double()
        left = torch.cat(
            [torch.cat([X, ones], 1), torch.cat([ridge, 0 * ridge[:, : ones.shape[1]]], 1)]
        )
        right = torch.cat([wanted, ridge @ before[g].T])
        least = torch.linalg.lstsq(left, right).solution
        weights.append(least[: site.D].T)
        biases.append(least[site.D :].flatten())
    return torch.cat(weights), torch.cat(biases)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_weight_and_bias_are_those_of_least_error(kind, channels_last):
    layer, site, rows, targets = case(kind, channels_last)
    W = layer.weight.detach().reshape(site.M, site.D).clone()
    with torch.no_grad():
        layer.weight.mul_(1.1)  # trained since
    bias = None if layer.bias is None else layer.bias.detach().clone()
    weight, shift = solution(layer, site, rows, targets, W, DAMPING)
    refit(layer, site, rows, targets, W)
    torch.testing.assert_close(
        layer.weight.reshape(site.M, -1).double(), weight, rtol=1e-4, atol=1e-5
    )
    if bias is not None:
        torch.testing.assert_close(layer.bias.double(), bias + shift, rtol=1e-4, atol=1e-5)
    if channels_last and layer.weight.ndim == 4:
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_same_inputs_change_nothing(kind):
    layer, site, rows, _ = case(kind)
    before = copy.deepcopy(layer.state_dict())
    refit(layer, site, rows, rows, layer.weight.detach().reshape(site.M, site.D).clone())
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_inputs_that_are_all_zero_leave_the_weight():
    layer, site, rows, targets = case("linear")
    before = layer.weight.detach().clone()
    refit(layer, site, torch.zeros_like(rows), targets, before.clone())
    assert torch.equal(layer.weight, before)


def test_values_that_are_not_finite_are_refused_by_name():
    layer, site, rows, targets = case("linear")
    with pytest.raises(HalutError, match=r"^here: its weight cannot be fitted"):
        refit(layer, site, rows * float("inf"), targets, layer.weight.detach().clone())


def test_layers_in_front_of_the_first_replaced_one_are_left_alone():
    network = nn.Sequential(*[nn.Linear(4, 4) for _ in range(5)])
    sites, _ = find_sites(network, torch.zeros(1, 4))
    operators = ["keep", "tree", "keep", "tree", "keep"]
    plan = [Entry(site, operator) for site, operator in zip(sites, operators, strict=True)]
    assert [e.site.name for e in behind(plan, [plan[1]])] == ["2", "4"]
    assert [e.site.name for e in behind(plan, [plan[3]])] == ["4"]
