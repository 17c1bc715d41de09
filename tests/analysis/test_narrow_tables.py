"""Bytes of tables of four bits: half of eight bits, so that twice the codebooks take the same."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import halut
from halut.analysis.memory import memory_figures, prepared_figures
from halut.configs import PQ, Tree
from halut.inference import PackedLayer, prepare
from halut.training.evaluate_show import show

ENTRIES = 8 * 16 * 10
"""Of the table with twice the codebooks: C = 8, K = 16, M = 10."""


def network_of(config) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(32, 10)).eval(), torch.randn(300, 32)
    halut.replace_(network, config, [x], keep_first=False, keep_last=False)
    return network.eval(), x


@pytest.mark.parametrize("kind", [Tree, PQ])
def test_twice_the_codebooks_at_half_the_bits_have_the_same_tables(kind):
    eight, narrow = (network_of(kind(C=C, bits=bits))[0] for C, bits in ((4, 8), (8, 4)))
    stages = network_of(kind(C=4, bits=4, residual=1))[0]
    for network in (eight, narrow, stages):
        cost = halut.cost(network, torch.zeros(1, 32))
        assert cost["replaced"]["table_bytes"] == ENTRIES // 2
        assert cost["layers"]["0"]["table_bytes"] == ENTRIES // 2
        assert memory_figures(network)["after"]["tables"] == ENTRIES // 2


def test_four_bits_hold_every_entry():
    """Packed by two in a byte and unpacked again, the table is what the kernels read."""
    layer = prepare(network_of(Tree(C=8, bits=4))[0]).get_submodule("0")
    assert isinstance(layer, PackedLayer)
    entries = layer.table.flatten()
    low, high = (entries[i::2].to(torch.uint8) & 15 for i in range(2))
    nibbles = low | high << 4
    assert nibbles.nbytes == ENTRIES // 2
    pairs = torch.stack([nibbles & 15, nibbles >> 4], 1).flatten().to(torch.int8)
    assert torch.equal(torch.where(pairs > 7, pairs - 16, pairs), entries)


def test_a_prepared_network_has_a_byte_and_a_bundle_a_float_for_each(tmp_path):
    network, x = network_of(Tree(C=8, bits=4))
    prepared = prepare(network, x)
    held = prepared_figures(prepared)["prepared_bytes"]
    rest = memory_figures(network)["after"]
    taps = 4 * 8 * 4  # indices of 8 bytes, counted as 4
    assert held == ENTRIES + rest["scales"] + rest["biases"] + rest["encoders"] + taps
    halut.save(network, tmp_path / "bundle")
    assert load_file(tmp_path / "bundle/model.safetensors")["0.lut"].nbytes == 4 * ENTRIES


@pytest.mark.parametrize(("bits", "said"), [(4, True), (8, False), (None, False)])
def test_an_evaluation_says_so(bits, said, capsys):
    network, x = network_of(Tree(C=8, bits=bits))
    cost = halut.cost(network, x)
    figures = {
        "cost": {"exact": cost["exact"], "replaced": cost["replaced"]},
        "memory": memory_figures(network),
        **prepared_figures(prepare(network, x)),
        **{"latency": None, "runtime": None, "layers": [], "recorded": {"samples": 1}},
        **{"split": "test", "accuracy": 1.0, "samples": 1, "data": "none"},
    }
    show(figures, halut.plan_of(network))
    printed = " ".join(capsys.readouterr().out.split())
    assert "memory prepared" in printed
    assert ("a byte for each entry of tables" in printed) == said
