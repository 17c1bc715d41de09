"""Costs counted by hand: odd sizes, groups, blocks that divide nothing, one encoder of three."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.analysis.plan_cost import plan_cost
from halut.replace.policy import Rule, resolve
from halut.replace.sharing import same_inputs, with_sharing
from halut.sites.find import find_sites

PICO = 1e-12


class Layers(nn.Module):
    """A stem; a grouped, strided convolution of 25 positions, 2 groups of 36 inputs, 8 outputs of
    each; a depthwise one of 16 channels; q, k and v of 25 tokens of 16; a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.q, self.k, self.v = (nn.Linear(16, 10, bias=bias) for bias in (True, True, False))
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        x = self.depthwise(self.grouped(self.stem(x)).relu()).relu().flatten(2).transpose(1, 2)
        return self.head((self.q(x) + self.k(x) + self.v(x)).mean(1))


def costs(operator: str, share: bool = False, variant: str = "plan", **options):
    """Figures by site, of `variant`; all but the stem and the head are replaced."""
    network, example = Layers().eval(), torch.zeros(1, 3, 9, 9)
    rules = [Rule("stem"), Rule("head"), Rule(operator=operator, options=options)]
    plan = resolve(find_sites(network, example)[0], rules, operator, {})
    plan = with_sharing(plan, same_inputs(network, example)) if share else plan
    (cost,) = plan_cost(plan, network, variants=(variant,))
    return {each.entry.site.name: each.figures for each in cost.sites}


def test_a_grouped_convolution_by_trees_whose_V_does_not_divide_D():
    """36 = 5 blocks of 7 and one of 1: 6 codes of each of two groups, 2 levels of each tree."""
    ours = costs("tree", V=7, K=4)["grouped"]
    compares, lookups = 25 * 2 * 6 * 2, 25 * 6 * 16
    expected = {
        "macs": 0, "encode_macs": 0, "encode_adds": 0, "encode_compares": compares,
        "lookups": lookups, "adds": lookups, "operations": compares + lookups,
        "table_bytes": 6 * 4 * 16, "weight_bytes": 4 * (16 + 16),  # biases, scales of outputs
        "encoder_bytes": 4 * 2 * 6 * (3 + 2),  # thresholds, and a column for each level
        "code_bytes": 25 * 2 * 6 * 2 / 8, "bops": 32 * compares + (8 + 8) * lookups,
    }  # fmt: skip
    assert {key: ours[key] for key in expected} == expected
    assert ours["weight_bits"] == (8 * 6 * 4 * 16 + 32 * 16) / (16 * 36)
    assert ours["activation_bits"] == 32
    # A float compare 0.1 pJ, an addition of 32 bits 0.1; a byte out of at most 8 KiB 1.25.
    reads = lookups + 4 * compares + 4 * compares  # entries, thresholds, the inputs they test
    assert ours["energy_compute"] == pytest.approx(PICO * 0.1 * (compares + lookups))
    assert ours["energy_sram"] == pytest.approx(PICO * 1.25 * reads)
    held = ours["table_bytes"] + ours["weight_bytes"] + ours["encoder_bytes"]
    assert ours["energy_dram"] == pytest.approx(PICO * 162.5 * held)


def test_a_depthwise_convolution_has_a_code_and_an_output_of_each_channel():
    ours = costs("tree", V=9, K=16)["depthwise"]
    assert ours["encode_compares"] == 25 * 16 * 4
    assert ours["lookups"] == 25 * 16
    assert ours["table_bytes"] == 16 * 16
    exact = costs("tree", variant="exact")["depthwise"]
    assert exact["macs"] == 25 * 16 * 9
    assert exact["weight_bytes"] == 4 * 16 * 9


def test_prototypes_whose_V_does_not_divide_D():
    """16 = 3 blocks of 5 and one of 1: distances to 8 prototypes take 8 multiply-adds an input."""
    ours = costs("pq", V=5, K=8)["q"]
    macs, compares, lookups = 25 * 16 * 8, 25 * 4 * 7, 25 * 4 * 10
    assert (ours["encode_macs"], ours["encode_compares"]) == (macs, compares)
    assert ours["lookups"] == lookups
    assert ours["operations"] == macs + compares + lookups
    assert ours["table_bytes"] == 4 * 8 * 10
    assert ours["encoder_bytes"] == 4 * 8 * 16
    assert ours["code_bytes"] == 25 * 4 * 3 / 8
    assert ours["bops"] == 1024 * macs + 32 * compares + 16 * lookups
    compute = macs * (3.7 + 0.9) + 0.1 * compares + 0.1 * lookups
    assert ours["energy_compute"] == pytest.approx(PICO * compute)


def test_q_k_and_v_of_one_encoder_encode_once():
    apart, shared = costs("tree", V=4, K=16), costs("tree", share=True, V=4, K=16)
    compares = 25 * 4 * 4
    assert [apart[name]["encode_compares"] for name in "qkv"] == 3 * [compares]
    assert [shared[name]["encode_compares"] for name in "qkv"] == [compares, 0, 0]
    assert [shared[name]["encoder_bytes"] for name in "qkv"] == [4 * 4 * (15 + 4), 0, 0]
    assert [shared[name]["lookups"] for name in "qkv"] == 3 * [25 * 4 * 10]
    saved = 2 * compares * (0.1 + 1.25 * (4 + 4)) * PICO
    totals = (sum(of[name]["energy"] for name in "qkv") for of in (apart, shared))
    assert next(totals) - next(totals) == pytest.approx(saved)


@pytest.mark.parametrize(("name", "C", "taps", "M", "groups"), [
    ("q", 16, 1, 10, 1), ("grouped", 4, 9, 16, 2), ("depthwise", 1, 9, 16, 16),
])  # fmt: skip
def test_blocks_that_do_not_divide_the_inputs(name, C, taps, M, groups):
    """A scale of 8 bits for every 7 inputs along the channels, the last block shorter."""
    ours = costs("block_fp", width=5, block=7)[name]
    blocks = -(-C // min(7, C))
    weight_bits = M * taps * (5 * C + 8 * blocks)
    D = C * taps
    assert ours["weight_bits"] == weight_bits / (M * D)
    assert ours["activation_bits"] == pytest.approx((5 * C + 8 * blocks) / C)
    bias = 4 * M if name != "depthwise" else 0
    assert ours["weight_bytes"] == -(-weight_bits // 8) + bias
    assert ours["macs"] == 25 * D * M
    assert ours["bops"] == 25 * ours["macs"]


@pytest.mark.parametrize("width", [8, 4])
def test_the_integer_baselines(width):
    """Codes, a float scale of each output, a range of the inputs, float biases."""
    ours = costs("tree", variant=f"int{width}")["grouped"]
    weights, macs = 16 * 36, 25 * 36 * 16
    assert ours["weight_bytes"] == weights * width / 8 + 4 * 16 + 5 + 4 * 16
    assert ours["weight_bits"] == width + 32 * 16 / weights
    assert ours["activation_bits"] == 8
    assert (ours["macs"], ours["bops"]) == (macs, width * 8 * macs)
    multiply = 0.2 * width * 8 / 64
    assert ours["energy_compute"] == pytest.approx(PICO * macs * (multiply + 0.1))
    reads = ours["weight_bits"] * weights / 8 + 25 * 2 * 36  # all below 8 KiB
    assert ours["energy_sram"] == pytest.approx(PICO * 1.25 * reads)


@pytest.mark.parametrize(("stride", "price"), [(1, 2.5), (2, 2.5), (4, 12.5)])
def test_inputs_lie_in_a_memory_of_the_whole_map(stride, price):
    """A map of 3 channels of 40 x 40 takes 19,200 bytes, one of 80 x 80 at stride 4 76,800."""
    size = 80 if stride == 4 else 40
    network = nn.Sequential(nn.Conv2d(3, 2, stride, stride, bias=False), nn.ReLU())
    plan_sites, _ = find_sites(network, torch.zeros(1, 3, size, size))
    plan = resolve(plan_sites, [Rule(operator="integer")], "integer", {})
    (exact,) = plan_cost(plan, network, variants=("exact",))
    inputs, weights = 3 * size * size, 2 * 3 * stride * stride
    expected = PICO * (price * 4 * inputs + 1.25 * 4 * weights)
    assert exact.figures["energy_sram"] == pytest.approx(expected)
