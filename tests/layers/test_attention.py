"""Attention's two products as a site: exposed, quantized, trained, counted, kept by default."""

from __future__ import annotations

import copy

import pytest
import torch

from halut.analysis.bit_operations import bit_figures
from halut.analysis.layer_errors import layer_errors
from halut.analysis.memory import memory_figures
from halut.analysis.network_cost import exact_cost, replaced_cost
from halut.codecs import codecs
from halut.errors import HalutError
from halut.inference import prepare
from halut.layers.codec_attention import FORMATS, CodecAttention
from halut.models.build import build_model
from halut.replace import swap
from halut.replace.operator_registry import make_operator
from halut.replace.policy import Rule, resolve, simple_rules
from halut.sites.attention import AttentionProducts, expose_attention
from halut.sites.calibration import capture
from halut.sites.find import Site, find_sites
from halut.sites.plan import Plan

HEADS, D, TOKENS = 2, 8, 16
NAME = "blocks.0.attn.products"


def vit():
    torch.manual_seed(0)
    return build_model("tiny_vit", 10, 1, patch=2, dim=HEADS * D, depth=1, heads=HEADS).eval()


@pytest.fixture
def x():
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def planned(network, x, operator="integer", rules=None, **options):
    expose_attention(network)
    sites, unsupported = find_sites(network, x[:1])
    return resolve(
        sites, rules or [Rule(kind="attention", operator=None)], operator, options, unsupported
    )


def learned(network, x, operator="integer", **options):
    plan = planned(network, x, operator, **options)
    for entry in plan.replaced:
        rows = capture(network, [entry.site], [x])[entry.site.name]
        swap.replace_site(network, entry, rows, seed=1)
    return plan


@pytest.mark.parametrize("fused", [False, True])
def test_exposed_attention_is_the_same_network(x, fused):
    network = vit()
    network.blocks[0].attn.fused_attn = fused
    before, state = network(x), network.state_dict()
    assert expose_attention(network) == [NAME] == expose_attention(network)
    products = network.get_submodule(NAME)
    assert isinstance(products, AttentionProducts)
    assert products.fused_attn == fused
    assert torch.equal(network(x), before)
    assert network.state_dict().keys() == state.keys()
    assert torch.equal(copy.deepcopy(network)(x), before)


def test_the_site_and_its_cost_by_hand(x):
    network = vit()
    plain = find_sites(network, x[:1])[0]
    assert "attention" not in {site.kind for site in plain}
    expose_attention(network)
    sites = {site.name: site for site in find_sites(network, x[:1])[0]}
    assert len(sites) == len(plain) + 1
    site = sites[NAME]
    assert (site.describe(), site.weights, site.D, site.M) == ("attention", 0, D, TOKENS)
    assert site.macs == 2 * HEADS * TOKENS * TOKENS * D
    assert site.inputs == HEADS * TOKENS * (3 * D + TOKENS)
    assert Site.from_dict(site.to_dict()) == site
    plan = learned(network, x, width=8)
    layer = network.get_submodule(NAME)
    cost = layer.cost()
    assert cost["bops"] == 64 * site.macs
    assert cost["input_bits"] == 8 * site.inputs
    assert cost["weight_bytes"] == 4 * 4  # a scale of q, k, softmax and v
    figures = bit_figures(plan, network)
    others = sum(s.inputs for s in plain)
    assert figures["activation_bits"] == (32 * others + 8 * site.inputs) / (others + site.inputs)
    assert figures["bops"] == 64 * site.macs + 1024 * sum(s.macs for s in plain)
    assert replaced_cost(plan, network)["macs"] == exact_cost(plan, vit())["macs"]
    assert memory_figures(network)["after"]["encoders"] == 16


@pytest.mark.parametrize("operator", FORMATS)
def test_products_of_quantized_factors(x, operator):
    network = vit()
    expose_attention(network)
    seen = []
    hook = network.get_submodule(NAME).register_forward_pre_hook(lambda m, i: seen.append(i))
    base = network(x)
    hook.remove()
    plan = learned(network, x, operator)
    layer = network.get_submodule(NAME)
    assert isinstance(layer, CodecAttention)
    q, k, v = seen[0]
    one = layer.q.quantize(q[1, 0, :, None])[:, 0], layer.k.quantize(k[1, 0, :, None])[:, 0]
    a = torch.softmax(one[0] @ one[1].t() * D**-0.5, -1)
    quantized_values = layer.v.quantize(v[1, 0].t()[:, None])[:, 0].t()
    expected = layer.a.quantize(a[:, None])[:, 0] @ quantized_values
    torch.testing.assert_close(layer(q, k, v)[1, 0], expected)
    assert layer_errors(network, [x])[NAME]["normalized_mse"] < 0.1
    assert 0 < layer.diagnose(q, k, v)["normalized_mse"] < 0.1
    assert not torch.equal(network(x), base)
    with torch.no_grad():
        torch.testing.assert_close(prepare(network, x)(x), network(x))

    again = swap.apply(vit(), Plan.from_dict(plan.to_dict()))
    again.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(again(x), network(x))
    network(x).square().sum().backward()
    gradient = network.blocks[0].attn.qkv.weight.grad
    assert gradient.isfinite().all()
    assert all(part.abs().max() > 0 for part in gradient.chunk(3))


def test_only_rules_that_name_an_option_set_it(x):
    network = vit()
    expose_attention(network)
    sites = find_sites(network, x[:1])[0]
    plan = resolve(sites, simple_rules(sites), "integer", {})
    assert not plan[NAME].replaced
    plan = resolve(sites, simple_rules(sites, kinds=["linear", "attention"]), "integer", {})
    assert plan[NAME].replaced
    assert plan[NAME].options["weight"] is None
    assert plan["blocks.0.mlp.fc1"].replaced


def test_formats_that_cannot_multiply_activations_are_named(x):
    site = Site(NAME, "attention", D, TOKENS, 3, False, 2 * HEADS * TOKENS)
    assert make_operator("tree").supports(site) == (
        "tables multiply by a weight, attention has none"
    )
    assert "it is float" in make_operator("integer", activation=None).supports(site)
    for name in set(codecs) - set(FORMATS) - {"chain", "prune"}:
        assert f"it is {name}" in make_operator(name).supports(site)
    with pytest.raises(HalutError, match=r"replaces nothing.*tables multiply by a weight"):
        planned(vit(), x, "tree")


def test_another_number_of_tokens_is_refused(x):
    network = vit()
    learned(network, x)
    layer = network.get_submodule(NAME)
    with pytest.raises(HalutError, match="replaced for 16 tokens, got 4"):
        layer(*torch.zeros(3, 1, HEADS, 4, D))
