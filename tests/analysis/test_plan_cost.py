"""Cost of a plan before anything is learned, held to that of the replaced network."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import halut
from halut.analysis import plan_latency as plan_latency_module
from halut.analysis.bit_operations import bit_figures
from halut.analysis.energy import load_energies
from halut.analysis.memory import memory_figures
from halut.analysis.network_cost import exact_cost, macs_outside, operations, replaced_cost
from halut.analysis.plan_cost import SUMS, VARIANTS, plan_cost, with_latency
from halut.analysis.plan_latency import plan_latency
from halut.bench.method import relative_error
from halut.errors import HalutError
from halut.inference import onednn
from halut.inference.onednn import Int8Product
from halut.models.build import build_model
from halut.replace import swap
from halut.replace.operator_registry import operator_names
from halut.replace.policy import Rule, resolve
from halut.replace.ptq import quantized_bytes
from halut.replace.sharing import same_inputs, with_sharing
from halut.sites.attention import expose_attention
from halut.sites.find import find_sites
from halut.sites.plan import Plan


class Network(nn.Module):
    """Grouped, strided, depthwise and 1x1 convolutions, a norm, two Linears of one input."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 24, 1)
        self.q, self.k = nn.Linear(24, 12), nn.Linear(24, 12, bias=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.depthwise(self.grouped(self.norm(self.stem(x)).relu())).relu()
        x = self.pointwise(x).relu().flatten(2).transpose(1, 2)
        return self.head((self.q(x) + self.k(x)).mean(1))


EXAMPLE = torch.zeros(1, 3, 9, 9)


def planned(operator: str = "tree", share: bool = False, **options) -> tuple[nn.Module, Plan]:
    torch.manual_seed(0)
    network = Network().eval()
    sites, unsupported = find_sites(network, EXAMPLE)
    rules = [Rule("stem"), Rule("head"), Rule(operator=operator, options=options)]
    plan = resolve(sites, rules, operator, {}, unsupported)
    return network, with_sharing(plan, same_inputs(network, EXAMPLE)) if share else plan


def figures_of(plan: Plan, network: nn.Module, **options):
    return {cost.variant: cost.figures for cost in plan_cost(plan, network, **options)}


@pytest.mark.parametrize("operator", operator_names())
@pytest.mark.parametrize("share", [False, True])
def test_it_is_what_the_replaced_network_costs(operator, share):
    network, plan = planned(operator, share)
    ours = figures_of(plan, network)["plan"]
    exact = copy.deepcopy(network)
    swap.apply(network, plan)
    for _, layer in swap.replaced_layers(network):
        if operator in ("prune", "chain"):  # what they hold is known once the masks are
            layer.calibrate(torch.randn(16, layer.site.groups * layer.site.D))
    cost, bits = replaced_cost(plan, network), bit_figures(plan, network)
    for key in ("macs", "encode_compares", "encode_macs", "encode_adds", "lookups", "adds"):
        assert ours[key] == cost[key], key
    assert ours["operations"] == operations(cost) > 0
    assert ours["table_bytes"] == cost["table_bytes"]
    assert ours["bytes"] == memory_figures(network)["after"]["total"]
    for key in ("bops", "weight_bits", "activation_bits"):
        assert ours[key] == pytest.approx(bits[key], rel=1e-12), key
    assert figures_of(plan, exact)["exact"]["macs"] == exact_cost(plan, exact)["macs"]


def test_the_baselines_are_integers_at_the_sites_that_the_plan_replaces():
    network, plan = planned()
    by_variant = {cost.variant: cost for cost in plan_cost(plan, network)}
    assert tuple(by_variant) == VARIANTS == ("exact", "int8", "int4", "plan")
    exact = by_variant["exact"].figures
    assert exact["bytes"] == sum(
        t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers())
    )
    assert (exact["weight_bits"], exact["activation_bits"]) == (32, 32)
    assert exact["bops"] == 32 * 32 * exact["macs"]
    replaced = {e.site.name for e in plan.replaced}
    for name, width in (("int8", 8), ("int4", 4)):
        cost = by_variant[name]
        macs = 0
        for each in cost.sites:
            site, integers = each.entry.site, each.entry.site.name in replaced
            assert each.entry.operator == ("integer" if integers else "keep")
            macs += site.macs * (width * 8 if integers else 32 * 32)
        assert cost.figures["bops"] == macs
        assert cost.figures["macs"] == exact["macs"]
        sites = [e.site for e in plan.replaced]
        integers_bytes = sum(s.figures["bytes"] for s in cost.sites if s.entry.replaced)
        assert integers_bytes == quantized_bytes(sites, width)
    assert by_variant["int4"].figures["energy"] < by_variant["int8"].figures["energy"]
    assert by_variant["int8"].figures["energy"] < exact["energy"]


def test_the_network_s_figures_are_the_sums_of_its_sites():
    network, plan = planned()
    for cost in plan_cost(plan, network):
        rest = 4 * 4 * 8 + 8  # the norm: scale, shift, mean, variance, and a count of batches
        for key in SUMS:
            outside = rest * 162.5e-12 if key == "energy_dram" else 0
            total = sum(s.figures[key] for s in cost.sites) + outside
            assert cost.figures[key] == pytest.approx(total), key
        held = sum(s.figures["bytes"] for s in cost.sites)
        assert cost.figures["bytes"] == held + rest
        assert cost.figures["macs_outside"] == 0
        assert cost.figures["energy_dram"] == pytest.approx(cost.figures["bytes"] * 162.5e-12)


def test_tokens_and_groups_are_counted():
    network, plan = planned("tree", C=2, K=4)
    sites = {s.entry.site.name: s.figures for s in plan_cost(plan, network)[-1].sites}
    tokens = 25  # of 9x9 at stride 2
    assert sites["q"]["lookups"] == tokens * 2 * 12
    assert sites["grouped"]["encode_compares"] == tokens * 2 * 2 * 2  # groups, C, levels
    assert sites["grouped"]["lookups"] == tokens * 2 * 16
    assert sites["grouped"]["code_bytes"] == tokens * 2 * 2 * 2 / 8


def test_a_shared_encoder_counts_at_its_first_site():
    alone, shared = (
        {s.entry.site.name: s.figures for s in plan_cost(plan, network)[-1].sites}
        for network, plan in (planned(share=share) for share in (False, True))
    )
    assert shared["q"] == alone["q"]
    assert alone["k"]["encode_compares"] > shared["k"]["encode_compares"] == 0
    assert shared["k"]["encoder_bytes"] == 0
    assert shared["k"]["energy"] < alone["k"]["energy"]
    assert shared["k"]["lookups"] == alone["k"]["lookups"]


def test_weights_are_not_read_and_nothing_is_drawn():
    network, plan = planned()
    expected = figures_of(plan, network)
    state = torch.random.get_rng_state()
    assert figures_of(plan, copy.deepcopy(network).to("meta")) == expected
    assert torch.equal(torch.random.get_rng_state(), state)


def test_attention_is_a_site():
    timm = pytest.importorskip("timm")
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=1, num_classes=4, embed_dim=24, num_heads=2
    ).eval()
    expose_attention(network)
    sites, _ = find_sites(network, torch.zeros(1, 3, 32, 32))
    rules = [Rule(kind="attention", operator="integer", options={"width": 8}), Rule("*")]
    plan = resolve(sites, rules, "integer", {})
    costs = plan_cost(plan, network)
    (exact, int8, _, ours) = (
        next(s.figures for s in cost.sites if s.entry.site.kind == "attention") for cost in costs
    )
    tokens, heads, d = 5, 2, 12
    assert exact["macs"] == ours["macs"] == 2 * heads * tokens * tokens * d
    assert ours["bops"] == 64 * ours["macs"]
    assert exact["weight_bits"] is None
    assert ours["energy"] < exact["energy"] / 4
    assert int8 == exact  # no weight to quantize: as the baseline of a run has it


class Attending(nn.Module):
    """torch's attention, whose layers are read without a call, and a matmul of its own."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 6)

    def forward(self, x):
        y, _ = self.attention(x, x, x, need_weights=False)
        return self.head(y) @ self.head(x).transpose(1, 2)


@pytest.mark.parametrize("batch", [1, 3])
def test_products_outside_of_the_sites_are_counted(batch):
    """10 tokens of 8: q, k, v and the output's projection, two products of attention, one more."""
    network = Attending().eval()
    x = torch.randn(batch, 10, 8)
    sites, unsupported = find_sites(network, x[:1])
    assert [site.name for site in sites] == ["head"]
    assert [each.name for each in unsupported] == ["attention.out_proj"]
    plan = resolve(sites, [Rule(operator="tree", options={"V": 4})], "tree", {}, unsupported)
    outside = macs_outside(plan, network, x)
    assert outside == 10 * 8 * 8 * 4 + 2 * 10 * 10 * 8 + 10 * 10 * 6
    exact, int8, _, ours = plan_cost(plan, network, macs_outside=outside)
    head = 2 * 10 * 8 * 6  # called twice
    assert exact.figures["macs"] == head + outside
    assert ours.figures["macs"] == outside
    assert ours.figures["operations"] == outside + sum(s.figures["operations"] for s in ours.sites)
    assert int8.figures["bops"] == 64 * head + 1024 * outside
    compute = (outside + head) * (3.7 + 0.9) * 1e-12
    assert exact.figures["energy_compute"] == pytest.approx(compute)
    public = halut.plan_cost(network, halut.Tree(V=4), x, keep_last=False, keep_first=False)
    assert public[0].figures["macs"] == exact.figures["macs"]


def test_what_a_policy_leaves_out_counts_as_if_it_were_a_site():
    pytest.importorskip("timm")
    network = build_model("tiny_vit", 4, 1, dim=16, depth=2, heads=2).eval()
    x = torch.zeros(1, 1, 8, 8)
    rules = [Rule(kind="linear", operator="integer"), Rule("*")]
    plan = resolve(find_sites(network, x)[0], rules, "integer", {})
    outside = macs_outside(plan, network, x)
    exposed = copy.deepcopy(network)
    expose_attention(exposed)
    sites, _ = find_sites(exposed, x)
    assert outside == sum(s.macs for s in sites if s.kind == "attention") == 2 * 2 * 4 * 4 * 16
    whole = resolve(sites, rules, "integer", {})
    assert macs_outside(whole, exposed, x) == 0
    assert torch.backends.mha.get_fastpath_enabled()


def test_energy_follows_its_table_and_memories():
    network, plan = planned()
    at_45, at_7 = (figures_of(plan, network, energies=load_energies(n)) for n in ("45nm", "7nm"))
    for variant in VARIANTS:
        assert at_7[variant]["energy"] < at_45[variant]["energy"]
        total = at_7[variant]["energy_compute"] + at_7[variant]["energy_sram"]
        assert at_7[variant]["energy"] == pytest.approx(total)
    once = figures_of(plan, network, reuse=1)
    assert once["exact"]["energy_sram"] > 4 * at_45["exact"]["energy_sram"]
    assert once["exact"]["energy_compute"] == at_45["exact"]["energy_compute"]


def test_the_public_verb_plans_as_replace_does():
    network = Network().eval()
    options = {"keep": ["pointwise"], "rules": [("q", halut.Integer(width=4))], "share": True}
    costs = halut.plan_cost(network, halut.Tree(K=4), EXAMPLE, energies="7nm", **options)
    rows = [torch.randn(8, 3, 9, 9)]
    plan = halut.replace_(copy.deepcopy(network), halut.Tree(K=4), rows, **options)
    planned_entries = [(s.entry.site, s.entry.operator, s.entry.options) for s in costs[-1].sites]
    assert planned_entries == [(e.site, e.operator, e.options) for e in plan]
    assert isinstance(network.grouped, nn.Conv2d)
    with pytest.raises(HalutError, match="example is missing"):
        halut.plan_cost(network, halut.Tree())


@pytest.mark.parametrize("operator", ["tree", "pq", "integer"])
def test_latency_is_measured_of_every_replaced_site_and_changes_nothing(operator):
    network, plan = planned(operator)
    plan = replace(plan, model={"input_shape": [3, 9, 9]})
    before, state = swap.digest(network), torch.random.get_rng_state()
    learned = []
    times = plan_latency(network, plan, batch=2, progress=learned.append)
    assert swap.digest(network) == before
    assert torch.equal(torch.random.get_rng_state(), state)
    replaced = [entry.site.name for entry in plan.replaced]
    assert len(learned) == len(replaced)
    assert list(times["sites"]) == replaced
    assert times["batch"] == 2
    costs = {c.variant: c for c in with_latency(plan_cost(plan, network), times)}
    variants = ["exact", "plan", *(["int8"] if onednn.available() else [])]
    for variant in variants:
        assert costs[variant].figures["latency"] == times["ms"][variant] / 1e3
        timed = [s.entry.site.name for s in costs[variant].sites if "latency" in s.figures]
        assert timed == replaced
    assert set(times["ran"]) == set(variants)
    assert set(times["missing"]) == set(VARIANTS) - set(variants)
    assert "latency" not in costs["int4"].figures
    assert "4-bit" in times["missing"]["int4"]
    what = {"tree": "tree_layer", "pq": "nearest_layer", "integer": "float products of quantized"}
    assert what[operator] in times["ran"]["plan"]


@pytest.mark.skipif(not onednn.available(), reason="this torch has no oneDNN")
def test_int8_is_timed_at_the_replaced_sites_alone():
    network, plan = planned()
    network.requires_grad_(False)
    replaced = [entry.site.name for entry in plan.replaced]
    ready, note, alone = plan_latency_module._in_int8(network, replaced, torch.randn(2, 3, 9, 9))
    products = [m for m in ready.modules() if isinstance(m, Int8Product)]
    assert len(products) == len(replaced) == len(alone)
    assert "all replaced sites, bytes between neighbors" in note
    kept = [m for m in ready.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(kept) == 2  # the stem and the head
    x = torch.randn(2, 3, 9, 9)
    assert relative_error(ready(x), network(x)) < 0.1


@pytest.mark.skipif(not onednn.available(), reason="this torch has no oneDNN")
def test_what_has_no_int8_kernel_is_said():
    pytest.importorskip("timm")
    network = build_model("tiny_vit", 4, 1, dim=16, depth=1, heads=2).eval()
    expose_attention(network)
    sites, _ = find_sites(network, torch.zeros(1, 1, 8, 8))
    products, integer = Rule(kind="attention", operator="integer"), Rule(operator="integer")
    rules = [Rule("head"), Rule("patch_embed.*"), products, integer]
    plan = resolve(sites, rules, "integer", {}, model={"input_shape": [1, 8, 8]})
    times = plan_latency(network, plan)
    name = "blocks.0.attn.products"
    assert "int8" not in times["sites"][name]
    assert times["missing_at"][name]["int8"] == "no INT8 kernel for this product"
    assert "at 4 of 5 sites" in times["ran"]["int8"]
    assert {"exact", "int8", "plan"} <= times["sites"]["blocks.0.mlp.fc1"].keys()
