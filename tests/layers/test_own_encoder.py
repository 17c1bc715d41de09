"""A user's own encoder: registered, it works everywhere without a line changed elsewhere."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import halut
from halut.analysis.layer_errors import layer_errors
from halut.analysis.network_cost import replaced_cost
from halut.encoders import Encoder, check_rows, encoders
from halut.errors import HalutError
from halut.prototypes.buckets import bucket_means
from halut.replace import swap
from halut.replace.operator_registry import operator_names
from halut.replace.policy import resolve, simple_rules
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.sites.plan import Plan


@dataclass
class MeanConfig(halut.TableConfig):
    """spread: the outermost cuts, in standard deviations."""

    spread: float = 1.5

    def __post_init__(self):
        super().__post_init__()
        if not self.spread > 0:
            raise HalutError(f"halut.spread must be above 0, got {self.spread}")


class MeanEncoder(Encoder):
    """code = the bin of the block's mean; any K, no trees and no nearest prototypes."""

    Config = MeanConfig
    estimators = ("soft", "identity")

    def __init__(self, blocks, K, options=None):
        super().__init__(blocks, K, options)
        self.cuts = nn.Parameter(torch.zeros(blocks.total, K - 1))

    def means(self, inputs):
        widths = torch.tensor(self.blocks.widths)
        return self.blocks.split(inputs).sum(-1) / widths

    def calibrate(self, rows, *, seed=0, weight=None, progress=None):
        check_rows(rows, self.blocks.inputs)
        means = self.means(rows)
        at = torch.linspace(-1, 1, self.K - 1) * self.options.spread
        self.cuts.data.copy_(means.mean(0)[:, None] + means.std(0)[:, None] * at)
        empty = rows.new_zeros(self.blocks.total, self.K, self.blocks.V)
        return bucket_means(rows, self.codes(rows), self.blocks, empty)

    def encode(self, inputs):
        return (self.means(inputs)[:, :, None] > self.cuts).sum(-1).to(torch.uint8)

    def assign(self, inputs, tau):
        above = torch.sigmoid((self.means(inputs)[:, :, None] - self.cuts) / tau.reshape(-1, 1))
        one, none = torch.ones_like(above[..., :1]), torch.zeros_like(above[..., :1])
        return torch.cat([one, above], -1) - torch.cat([above, none], -1)

    def initial_tau(self, rows):
        return float(self.means(rows).std()) / self.K

    def param_groups(self):
        return {"thresholds": [self.cuts]}

    def cost(self, rows):
        cuts = self.blocks.total * (self.K - 1)
        return {"compares": rows * cuts, "macs": 0, "state_bytes": 4 * cuts}


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(encoders, "_entries", {**encoders._entries})
    encoders.register("mean_of_block")(MeanEncoder)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(),
        nn.Conv2d(6, 8, 3, 2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3),
    )  # fmt: skip


def test_from_policy_to_training(registered, tmp_path):
    assert "mean_of_block" in operator_names()
    net = network().eval()
    x = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    sites, _ = find_sites(net, x[:1])
    options = {"K": 5, "spread": 2.0, "bits": 8}
    plan = resolve(sites, simple_rules(sites, keep_last=False), "mean_of_block", options)
    assert [(e.site.name, e.options["spread"]) for e in plan.replaced] == [("2", 2.0), ("5", 2.0)]
    plan.save(tmp_path / "plan.json")
    fresh, expected = copy.deepcopy(net), net(x).detach()
    for entry in plan.replaced:
        swap.replace_site(net, entry, capture(net, [entry.site], [x])[entry.site.name])
    errors = layer_errors(net, [x])
    assert set(errors) == {"2", "5"}
    assert all(0 < e["normalized_mse"] < 1 for e in errors.values())
    assert replaced_cost(plan, net)["encode_compares"] == 9 * 6 * 4 + 9 * 4

    first = float((net(x) - expected).square().sum().detach())
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        (net(x) - expected).square().sum().backward()
        assert net[5].encoder.cuts.grad.any()
        optimizer.step()
    assert float((net(x) - expected).square().sum().detach()) < 0.7 * first

    again = swap.apply(fresh, Plan.load(tmp_path / "plan.json"))
    again.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(again(x), net(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spread": -1.0}, "spread must be above 0"),
        ({"spread": "wide"}, r"halut\.spread must be float, got 'wide'"),
        ({"width": 1}, r"unknown option halut\.width; choose from: .*spread"),
        ({"estimator": "tree"}, "has no estimator 'tree'; choose one of: soft, identity"),
    ],
)
def test_its_options_are_checked_like_any_other(registered, options, message):
    sites, _ = find_sites(network(), torch.zeros(1, 2, 8, 8))
    with pytest.raises(HalutError, match=message):
        resolve(sites, simple_rules(sites), "mean_of_block", options)


def test_without_registration_it_is_unknown():
    sites, _ = find_sites(network(), torch.zeros(1, 2, 8, 8))
    with pytest.raises(HalutError, match="unknown operator 'mean_of_block'; choose one of"):
        resolve(sites, simple_rules(sites), "mean_of_block", {})
