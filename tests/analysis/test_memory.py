"""Bytes before and after by hand, for every family, and that the reason adds up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.analysis.memory import (
    memory_figures,
    memory_lines,
    prepared_figures,
    state_bytes,
    times,
)
from halut.codecs import codecs
from halut.inference import prepare
from halut.replace import swap
from halut.replace.policy import Rule, resolve
from halut.sites.find import find_sites


def replaced(*rules, bias=True):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 10, bias=bias), nn.BatchNorm1d(10), nn.Linear(10, 4))
    x = torch.randn(20, 64)
    plan = resolve(find_sites(network.eval(), x[:1])[0], rules, "integer", {})
    before = state_bytes(network)
    swap.apply(network, plan)
    for _, layer in swap.replaced_layers(network):
        layer.calibrate(torch.randn(20, layer.site.D))
    return network, memory_figures(network), before


def test_mxint8_by_hand():
    network, figures, before = replaced(Rule("0", operator="mxint8"))
    untouched = 4 * 4 * 10 + 8 + 4 * (40 + 4)  # the norm and its counter, the other layer
    assert figures["before"] == {
        "replaced_weights": 4 * 640,
        "replaced_biases": 40,
        "untouched": untouched,
        "total": before,
    }
    after = {"codes": 640, "tables": 0, "scales": 20, "biases": 40, "encoders": 0}
    assert figures["after"] == {**after, "untouched": untouched, "total": 700 + untouched}
    assert figures["formula"] == 32 / 8.25
    assert figures["saving"] == before / (700 + untouched) < 32 / 8.25
    text = "\n".join(memory_lines(figures))
    for part in (f"{before:,} bytes", "the formats say 3.88 times", "8.25 bits each", "20 scales"):
        assert part in text
    prepared = prepare(network)
    state = prepared.get_submodule("0").state_dict()
    actual = sum(state[k].numel() * state[k].element_size() for k in ("codes", "scales"))
    assert actual == 660


def test_short_blocks_hold_more_scales():
    figures = replaced(Rule("2", operator="mxint8"))[1]
    assert (figures["after"]["codes"], figures["after"]["scales"]) == (40, 4)
    assert figures["formula"] == 32 / 8.25
    assert "8.8 bits each, 0.8 of them scales" in memory_lines(figures)[-1]


def test_tables_and_kept_layers():
    figures = replaced(Rule("0", operator="tree", options={"C": 4, "K": 16}))[1]
    after = figures["after"]
    assert (after["tables"], after["scales"]) == (4 * 16 * 10, 4 * 10)
    assert (after["biases"], after["codes"]) == (4 * 10, 0)
    assert after["encoders"] > 0
    assert figures["formula"] is None
    assert "the formats say" not in memory_lines(figures)[-1]
    exact = replaced(Rule("0", operator="exact"))[1]
    assert exact["saving"] == exact["formula"] == 1


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(1.84, "1.84 times smaller"), (0.952, "1.05 times larger"), (0.5, "2 times larger")],
)
def test_a_ratio_is_printed_from_its_larger_side(ratio, words):
    assert times(ratio) == words
    assert times(1.0001) == times(0.9999) == "1 times, neither smaller nor larger"
    assert times(0.25, "faster", "slower") == "4 times slower"


def test_what_grew_is_called_larger():
    """K = 256 tables of 4 inputs take 64 bytes a weight."""
    figures = replaced(Rule("0", operator="tree", options={"V": 4, "K": 256}))[1]
    assert figures["saving"] < 1
    text = "\n".join(memory_lines(figures))
    assert f"{1 / figures['saving']:.3g} times larger" in text
    assert "the replaced weights are 16 times larger" in text
    assert "smaller" not in text


def test_prepared_tables_count_once():
    """Whatever views or layers share a storage; a layout made of the tables is told apart."""
    network = replaced(Rule("0", operator="tree", options={"C": 4, "K": 16}))[0]
    prepared = prepare(network, torch.randn(2, 64))
    layer = prepared.get_submodule("0")
    actual = prepared_figures(prepared)
    parts = (layer.table, layer.scale, layer.bias, layer.taps, layer.thresholds)
    assert layer.table.nbytes == 4 * 16 * 10
    exact = 4 * (40 + 4) + 4 * 4 * 10 + 8  # the other layer, the norm and its counter
    assert actual["prepared_bytes"] == sum(part.nbytes for part in parts) + exact
    assert actual["prepared_layout_bytes"] == layer.packed.nbytes
    prepared.add_module("again", layer)
    prepared.register_buffer("view", layer.table.view(-1)[3:])
    prepared.register_buffer("second", layer.table.detach())
    assert prepared_figures(prepared) == actual


@pytest.mark.parametrize("name", list(codecs))
def test_the_parts_of_every_codec_are_all_there_is(name):
    network, figures, before = replaced(
        Rule("0", operator=name, options={"weight": {"name": name}})
    )
    after = figures["after"]
    layer = network.get_submodule("0")
    outside = after["untouched"]
    assert after["total"] - outside == layer.cost()["weight_bytes"]
    assert figures["before"]["total"] == before
    exported = layer.export()
    bits = sum(t.numel() * t.element_size() for k, t in exported.items() if k.startswith("weight"))
    assert abs(after["codes"] + after["scales"] - bits) < 8
    # The formats' bits a weight: those of codes, alone or with scales; pruned ones take a mask's.
    codes, scales = (8 * after[part] / 640 for part in ("codes", "scales"))
    share = float((layer.quantized_weight() != 0).float().mean())
    bits_held = 32 / figures["formula"] * share + 1 if share < 0.9 else 32 / figures["formula"]
    assert codes - 1e-6 <= bits_held <= codes + scales + 1e-6
