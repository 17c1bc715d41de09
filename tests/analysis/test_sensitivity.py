"""Sensitivity: each site replaced alone, measured as if it were replaced by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import halut
from halut.analysis.layer_errors import METRICS, layer_errors
from halut.analysis.sensitivity import (
    Candidate,
    candidates_of,
    evaluate,
    rank_correlation,
    sensitivity,
)
from halut.errors import HalutError
from halut.replace import swap
from halut.results.record import Record
from halut.sites.find import find_sites


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


@pytest.fixture(scope="module")
def sites(network):
    return find_sites(network, torch.zeros(1, 1, 6, 6))[0]


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(96, 1, 6, 6, generator=draw)
    labels = torch.randint(4, (96,), generator=draw)
    return list(zip(images.split(40), labels.split(40), strict=True))


CONFIGS = [halut.Tree(K=4), halut.PQ(K=4), halut.Integer(width=3)]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", ["0", "4", "7"])
def test_measured_is_what_replacing_by_hand_gives(network, sites, data, name, config):
    by_hand = copy.deepcopy(network)
    rules = [(name, config), ("*", "keep")]
    halut.replace_(by_hand, calibration=data, rules=rules, calibrate="original")
    expected, errors = evaluate(by_hand, data), layer_errors(by_hand, data)[name]
    exact = evaluate(network, data)

    site = next(site for site in sites if site.name == name)
    (found,) = sensitivity(
        network, [Candidate.of(site, config)], data, data, scores=("measured",), rows=65_536
    )
    figures = found.figures
    assert figures["accuracy"] == expected["accuracy"]
    assert figures["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert figures["lost"] == pytest.approx(exact["accuracy"] - expected["accuracy"])
    assert {key: figures[key] for key in METRICS} == pytest.approx(errors, rel=1e-5, abs=1e-9)
    assert figures["bytes"] > 0
    assert ("code_perplexity" in figures) == (config.name != "integer")


def test_each_site_alone_and_the_network_untouched(network, sites, data):
    network = copy.deepcopy(network).train()
    before, modules = swap.digest(network), dict(network.named_modules())
    order = []
    for each in sensitivity(network, candidates_of(sites, CONFIGS), data, data):
        order.append((each.candidate.site.name, each.candidate.entry.operator, each.score))
        assert dict(network.named_modules()) == modules  # also between two measurements
    operators = ("tree", "pq", "integer")
    scores = ("measured", "fisher")
    assert order == [(n, o, s) for n in ("0", "4", "7") for o in operators for s in scores]
    assert swap.digest(network) == before
    assert network.training


def test_one_pass_over_the_data_serves_all_sites_that_fit(network, sites, data):
    class Counted:
        passes = 0

        def __iter__(self):
            Counted.passes += 1
            return iter(data)

    candidates = candidates_of(sites, CONFIGS)
    whole = [m.figures for m in sensitivity(network, candidates, Counted(), data, rows=64)]
    assert Counted.passes == 2  # rows, and gradients
    small = list(sensitivity(network, candidates, Counted(), data, rows=64, memory=60_000))
    assert Counted.passes > 4
    for a, b in zip(whole, small, strict=True):
        for key, value in a.items():
            if not key.startswith("seconds"):
                assert b.figures[key] == pytest.approx(value, rel=1e-5), key


def test_a_large_site_keeps_its_rows_beside_small_ones(monkeypatch):
    """Where all of them fit, whatever the others of its group are."""
    network = nn.Sequential(nn.Linear(200, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    sites, _ = find_sites(network, torch.zeros(1, 200))
    rows = {}
    real = swap.build

    def build(network, entry):
        layer = real(network, entry)
        layer.calibrate = lambda x, seed: rows.update({entry.site.name: len(x)})
        return layer

    monkeypatch.setattr(swap, "build", build)
    data = [(torch.randn(50, 200), torch.zeros(50, dtype=torch.int64))]
    candidates = candidates_of(sites, [halut.Integer()])
    for memory, first in ((45_000, 50), (20_000, 25)):
        list(
            sensitivity(
                network, candidates, data, data, scores=("measured",), rows=50, memory=memory
            )
        )
        assert rows == {"0": first, "1": 50, "2": 50, "3": 50}


def test_what_is_done_already_is_not_done_again(network, sites, data):
    candidates = candidates_of(sites[:1], CONFIGS)
    read = []

    class Read:
        def __iter__(self):
            read.append("")
            return iter(data)

    done = {("tree", "measured"), ("tree", "fisher"), ("pq", "fisher"), ("integer", "fisher")}
    found = list(
        sensitivity(
            network, candidates, Read(), data,
            select=lambda candidate, score: (candidate.entry.operator, score) not in done,
        )
    )  # fmt: skip
    assert [(m.candidate.entry.operator, m.score) for m in found] == [
        ("pq", "measured"),
        ("integer", "measured"),
    ]
    assert len(read) == 1  # no gradients
    assert not list(sensitivity(network, candidates, Read(), data, select=lambda *_: False))
    assert len(read) == 1


def test_options_that_a_site_does_not_support_come_with_the_reason(network, sites, data):
    candidates = candidates_of(sites, [halut.PQ(C=20)])
    found = list(sensitivity(network, candidates, data, data, scores=("measured",)))
    assert [(m.candidate.site.name, m.score) for m in found] == [
        ("0", None),
        ("4", "measured"),
        ("7", "measured"),
    ]
    assert found[0].figures == {}
    assert "C must be in 1..9, got 20" in str(found[0].reason)


def test_the_same_outcome_is_measured_once(sites):
    same = candidates_of(sites[:1], [halut.PQ(V=9), halut.PQ(C=1), halut.PQ(C=3)])
    assert [each.entry.options["C"] for each in same] == [1, 3]


def test_a_network_that_is_not_finite_is_named(network, sites, data):
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken[0].weight.fill_(math.nan)
    with pytest.raises(HalutError, match="4: the captured activations hold NaN"):
        list(sensitivity(broken, candidates_of(sites[1:2], CONFIGS), data, data))


def test_a_layer_whose_answers_are_not_finite_has_figures_that_say_so(network, sites, data):
    """A network's own batches may hold what it was not learned from."""
    broken = [(torch.full_like(x, math.inf), labels) for x, labels in data]
    (found,) = sensitivity(
        network, candidates_of(sites[:1], CONFIGS[2:]), data, broken, scores=("measured",)
    )
    assert math.isnan(found.figures["normalized_mse"])
    assert math.isnan(found.figures["exact_loss"])
    record = Record("sensitivity", {}, {}, found.figures)
    assert {"loss", "mse", "cosine"} <= set(record.not_finite)
    assert record.figures["mse"] is None


def test_no_data_is_refused(network, sites, data):
    candidates = candidates_of(sites[:1], CONFIGS[:1])
    with pytest.raises(HalutError, match="saw no calibration rows"):
        list(sensitivity(network, candidates, [], data))
    with pytest.raises(HalutError, match="at least one batch"):
        list(sensitivity(network, candidates, data, [], scores=("measured",)))


def test_accuracy_counts_every_sample_in_evaluation_mode():
    net = nn.Sequential(nn.Dropout(0.9), nn.Linear(2, 2, bias=False)).train()
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(2))
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    batches = [(x[:2], torch.tensor([0, 1])), (x[2:], torch.tensor([1]))]
    for _ in range(5):
        assert evaluate(net, batches)["accuracy"] == 100 * 2 / 3
    assert net.training


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 1, 2], [1, 1, 5], 1.0),
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486832981),
    ],
)
def test_rank_correlation(x, y, expected):
    assert rank_correlation(x, y) == pytest.approx(expected)


def test_rank_correlation_of_what_has_no_ranks():
    assert math.isnan(rank_correlation([1.0], [2.0]))
    assert math.isnan(rank_correlation([1.0, 1.0], [1.0, 2.0]))
