"""Latencies of options: measured once into a store, and again for what they depend on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import halut
from halut.analysis.sensitivity import Candidate
from halut.configs import Tree
from halut.inference.table_layers import PackedLayer
from halut.replace.sharing import with_sharing
from halut.results.store import Store
from halut.sites.plan import KEEP, Entry, Plan
from halut.studies import latency
from halut.studies.latency import Latencies, measured
from tests.training.digit_attention import NAMES, DigitAttention


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    network = DigitAttention(10).eval().requires_grad_(False)
    sites, _ = halut.find_sites(network, torch.zeros(1, 1, 8, 8))
    entries = tuple(Entry(site, KEEP) for site in sites)
    model = {"name": "digit_attention", "options": {}, "input_shape": [1, 8, 8]}
    return SimpleNamespace(network=network, plan=Plan(entries, model))


def options_of(subject, *names, share=False):
    """Keep, and trees of 4 and 8 codebooks, at all of these sites."""
    sites = [subject.plan[name].site for name in names]
    made = [tuple(Entry(site, KEEP) for site in sites)]
    for C in (4, 8):
        plan = Plan(tuple(Candidate.of(site, Tree(C=C, K=4)).entry for site in sites))
        made.append(with_sharing(plan, [names] if share else []).entries)
    return made


@pytest.fixture
def timed(monkeypatch):
    """The numbers of options that were timed together."""
    counts, real = [], latency.options_latency

    def options_latency(network, shape, options, batch):
        counts.append(len(options))
        return real(network, shape, options, batch)

    monkeypatch.setattr(latency, "options_latency", options_latency)
    return counts


def test_what_is_stored_is_not_measured_again(subject, timed, tmp_path):
    options = options_of(subject, "head")
    first = Latencies(subject, Store(tmp_path), 1).of_options(options[:2])
    assert timed == [2]
    again = Latencies(subject, Store(tmp_path), 1).of_options(options)
    assert timed == [2, 1]
    assert again[:2] == first
    assert all(0 < each < 1 for each in again)
    record = Store(tmp_path).read().records[-1]
    assert (record.kind, record.site, record.options["C"]) == ("latency", "head", 8)


def test_another_batch_or_number_of_threads_or_sharing_is_another_latency(
    subject, timed, tmp_path, monkeypatch
):
    store = Store(tmp_path)
    apart, shared = (options_of(subject, *NAMES, share=share) for share in (False, True))
    Latencies(subject, store, 1).of_options(apart)
    Latencies(subject, store, 2).of_options(apart)
    Latencies(subject, store, 1).of_options(shared)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    Latencies(subject, store, 1).of_options(apart)
    assert timed == [3, 3, 2, 3]  # the exact layers share nothing


def test_layers_of_a_shared_encoder_are_timed_as_one(subject, monkeypatch, tmp_path):
    from halut.analysis import plan_latency

    layers = []
    real = plan_latency._call
    monkeypatch.setattr(
        plan_latency, "_call", lambda layer, *more: layers.append(layer) or real(layer, *more)
    )
    options = options_of(subject, *NAMES, share=True)
    Latencies(subject, Store(tmp_path), 1).of_options(options)
    packed = [sum(isinstance(m, PackedLayer) for m in layer.modules()) for layer in layers]
    linear = [sum(isinstance(m, torch.nn.Linear) for m in layer.modules()) for layer in layers]
    assert (packed, linear) == ([0, 1, 1], [3, 0, 0])


def test_options_exact_layers_and_networks_are_measured(subject, tmp_path):
    latencies = Latencies(subject, Store(tmp_path), 1)
    groups = [options_of(subject, "embed"), options_of(subject, "head")[1:]]
    options, exact, network = measured(groups, latencies)
    assert [len(each) for each in options] == [3, 2]  # one group may not keep its site
    assert options[0][0] == exact[0]
    assert exact[1] > 0
    assert 0 < max(exact) < network
    other = DigitAttention(10).eval()
    figures = latencies.of_plan(subject.plan, lambda: other)
    assert figures == Latencies(subject, Store(tmp_path), 1).of_plan(subject.plan, lambda: None)
    assert set(figures) == {"latency", "exact_latency"}
