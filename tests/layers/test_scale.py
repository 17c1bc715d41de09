"""Activations of any size learn as those of order one, and odd calibration rows do no harm."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from halut.inference import prepare
from halut.layers.matmul import HalutMatmul
from halut.ops.power_of_two import normalized_mse, unit_of
from halut.prototypes.kmeans import kmeans
from halut.replace import swap
from halut.replace.operator_registry import make_operator, operator_names
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.sites.plan import Entry

SCALES = [2.0**63, 2.0**-100, 2.0**-40, 2.0**30]
FIXED = ("binary", "minifloat_ieee", "minifloat_denorm")
"""Codecs for values of order one by their definition."""
TABLES = [
    ("tree", {}),
    ("tree", {"parameterization": "derived"}),
    ("tree", {"clip": "mse", "bits": 4}),
    ("decision_tree", {}),
    ("pq", {}),
    ("pq", {"metric": "l1"}),
    ("pq", {"metric": "chebyshev"}),
    ("pq", {"output_metric": True}),
    ("pq", {"parameterization": "derived", "ridge": None}),
    ("integer", {"calibrate": "mse"}),
]
TABLES += [(name, {}) for name in operator_names() if name not in FIXED]


def learned(x, operator, options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.Flatten()).eval()
    site = find_sites(net, x[:1])[0][0]
    entry = Entry(site, operator, make_operator(operator, **options).plan_options(site), 0)
    swap.replace_site(net, entry, capture(net, [site], [x])[site.name])
    return net


@pytest.mark.parametrize(("operator", "options"), TABLES)
def test_answers_scale_with_the_activations(operator, options):
    x = torch.randn(16, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    one = learned(x, operator, options)
    with torch.no_grad():
        expected, error = one(x), one[0].diagnose(x)["normalized_mse"]
        for scale in SCALES:
            net = learned(x * scale, operator, options)
            torch.testing.assert_close(net(x * scale) / scale, expected, rtol=1e-5, atol=1e-5)
            ready = prepare(net, x[:1] * scale)
            torch.testing.assert_close(ready(x * scale) / scale, expected, rtol=1e-4, atol=1e-4)
            assert net[0].diagnose(x * scale)["normalized_mse"] == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("encoder", ["tree", "pq", "decision_tree"])
def test_a_product_alone_has_the_error_of_scale_one(encoder):
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(300, 8)).astype("f4"), rng.normal(size=(8, 3)).astype("f4")

    def error(scale):
        product = HalutMatmul(2, 16, encoder)
        rows = (A * np.float32(scale)).astype("f4")
        product.learn_offline(rows, B)
        return product.stats(rows, B)["normalized_mse"]

    errors = [error(scale) for scale in (1, 1e19, 1e37, 1e-22, 1e-30, 1e-37)]
    assert 0.1 < errors[0] < 0.5
    assert errors == pytest.approx([errors[0]] * 6, rel=1e-3)


def test_units_are_kept_by_copies_and_state():
    x = torch.randn(16, 4, 6, 6, generator=torch.Generator().manual_seed(1)) * 1e19
    net = learned(x, "pq", {})
    ready = prepare(net, x[:1])
    again, twin = learned(x / 1e19, "pq", {}), prepare(learned(x / 1e19, "pq", {}), x[:1])
    again.load_state_dict(net.state_dict())
    twin.load_state_dict(ready.state_dict())
    with torch.no_grad():
        for one in (copy.deepcopy(net), again, ready, twin):
            torch.testing.assert_close(one(x), net(x), rtol=1e-5, atol=0)
    old = {k: v for k, v in learned(x / 1e19, "pq", {}).state_dict().items() if "unit" not in k}
    again.load_state_dict(old)  # as saved by versions that knew no units
    assert float(again[0].encoder.unit) == 1


def test_ordinary_values_have_no_unit():
    assert [unit_of(v) for v in (0.0, 1.0, 1e-4, 6e4, float("inf"))] == [1.0] * 5
    assert unit_of(1e19) == 2.0**64
    assert unit_of(3e38) == 2.0**126


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e19])
def test_the_error_figure_has_no_scale(scale):
    y, exact = torch.tensor([1.0, 2.0, 4.0]) * scale, torch.tensor([1.0, 2.0, 3.0]) * scale
    assert float(normalized_mse(y, exact)) == pytest.approx(1 / 14)
    assert float(normalized_mse(exact, exact)) == 0


def test_kmeans_of_values_whose_squares_overflow():
    x = np.repeat(np.array([[1e30], [-2e30], [5e30]], "f4"), 20, axis=0)
    assert sorted(kmeans(x, 3)[:, 0]) == pytest.approx([-2e30, 1e30, 5e30])


ODD = {
    "constant": lambda x: torch.ones_like(x),
    "zero": lambda x: torch.zeros_like(x),
    "one row": lambda x: x[:1],
    "few rows": lambda x: x[:3],
    "constant columns": lambda x: torch.cat([x[:, :6], torch.ones_like(x[:, 6:])], 1),
    "zero rows": lambda x: torch.cat([x[:50], torch.zeros_like(x[50:])]),
    "an outlier": lambda x: torch.cat([x, 1e19 * torch.ones_like(x[:1])]),
}


@pytest.mark.parametrize("rows", ODD)
@pytest.mark.parametrize("operator", operator_names())
def test_odd_rows_are_learned_from(operator, rows):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(12, 5)), torch.randn(100, 12)
    seen = ODD[rows](x)
    site = find_sites(net, x[:1])[0][0]
    entry = Entry(site, operator, make_operator(operator).plan_options(site), 0)
    layer = swap.build(net, entry)
    layer.calibrate(seen)
    with torch.no_grad():
        y, expected = layer(seen), net(seen)
        assert torch.isfinite(y).all()
        if operator in ("tree", "pq", "decision_tree") and len(seen.unique(dim=0)) <= 3:
            size = expected.abs().max()
            assert (y - expected).abs().max() < 0.02 * size + (0.3 * size if len(seen) < 4 else 0)
