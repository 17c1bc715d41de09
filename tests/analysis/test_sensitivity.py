"""Sensitivity: each site replaced alone, on a copy."""

from __future__ import annotations

import torch
from torch import nn

from halut.analysis.sensitivity import accuracy, sensitivity
from halut.replace import swap
from halut.replace.policy import Rule, resolve
from halut.sites.calibration import capture
from halut.sites.find import find_sites


def test_each_site_alone_and_the_network_untouched():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(200, 6)
    sites, _ = find_sites(net, x[:1])
    rules = [Rule("2", operator="exact"), Rule("*", operator="tree")]
    plan = resolve(sites, rules, "tree", {"K": 2, "C": 1})
    expected, before, seen, scored = net(x).detach(), swap.digest(net), [], []

    def score(network):
        scored.append([name for name, _ in swap.replaced_layers(network)])
        return -float((network(x) - expected).square().sum().detach())

    def rows_of(entry):
        return capture(net, [entry.site], [x])[entry.site.name]

    lost = sensitivity(net, plan, rows_of, score, progress=seen.append)
    assert scored == [[], ["0"], ["2"], ["4"]]
    assert lost["2"] == 0
    assert lost["0"] > 0
    assert lost["4"] > 0
    assert seen == [1, 1, 1]
    assert swap.digest(net) == before
    assert net.training


def test_accuracy_counts_every_sample_in_evaluation_mode():
    net = nn.Sequential(nn.Dropout(0.9), nn.Linear(2, 2, bias=False)).train()
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(2))
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    batches = [(x[:2], torch.tensor([0, 1])), (x[2:], torch.tensor([1]))]
    for _ in range(5):
        assert accuracy(net, batches) == 100 * 2 / 3
    assert net.training
