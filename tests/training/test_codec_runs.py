"""Runs with codecs: one alone, and all families mixed site by site in one network."""

from __future__ import annotations

import json

import pytest
import torch

from halut.analysis.bit_operations import bit_figures
from halut.analysis.memory import memory_figures
from halut.bundle import load_bundle
from halut.inference import prepare
from halut.inference.bit_layers import BitLayer
from halut.layers.codec import CodecLayer
from halut.layers.codec_attention import CodecAttention
from halut.layers.lut import LUTLayer
from halut.training.config.evaluate_config import EvaluateConfig, RuntimeConfig
from halut.training.evaluate import evaluate_bundle
from tests.training.measured_accuracy import measured
from tests.training.smoke_run import LAST, runner


@pytest.fixture
def finished(train, tmp_path):
    """A run to its end in tmp_path/NAME."""
    return runner(train, tmp_path)


RULES = (
    "policy.rules=["
    "{name: stack1.conv1, operator: tree, options: {K: 4}},"
    "{name: stack1.conv2, operator: pq, options: {K: 4}},"
    "{name: stack2.conv1, options: {weight: {width: 4}, activation: {name: block_minifloat}}},"
    "{name: stack2.shortcut, operator: lqnet, options: {width: 3}},"
    "{name: stack2.conv2, operator: chain, options: {scope: global, sparsity: 0.7, width: 6}},"
    "{name: stack3.conv1, operator: binary_residual, options: {activation: null}},"
    "{name: stack3.conv2, operator: prune, options: {scope: global, sparsity: 0.7}},"
    "{name: stack3.shortcut, operator: exact}]"
)


@pytest.mark.slow
def test_a_mixed_plan_trains_and_comes_back(finished, tmp_path):
    options = ("halut=integer", "halut.width=8", RULES, "schedule=all_at_once")
    run = finished("run", *options, only=())
    operators = {name: entry["operator"] for name, entry in run.plan.items()}
    assert operators["stack2.conv1"] == "integer"
    assert operators["stack2.shortcut"] == "lqnet"
    assert operators["conv1"] == operators["fc"] == "keep"
    assert len(set(operators.values())) == 9
    entry = run.plan["stack2.conv1"]["options"]
    assert (entry["weight"]["name"], entry["weight"]["width"]) == ("integer", 4)
    assert (entry["activation"]["name"], entry["activation"]["width"]) == ("block_minifloat", 8)
    pruned = [run.plan[n]["options"]["weight"] for n in ("stack2.conv2", "stack3.conv2")]
    assert {spec["scope"] for spec in pruned} == {"local"}
    assert pruned[0]["sparsity"] < 0.7 < pruned[1]["sparsity"]  # the wider layer's are smaller

    network, plan, report = load_bundle(run.path)
    kinds = {name: type(network.get_submodule(name)) for name in operators}
    assert sum(issubclass(kind, LUTLayer) for kind in kinds.values()) == 2
    assert sum(issubclass(kind, CodecLayer) for kind in kinds.values()) == 5
    state, swapped = (run.tensors(f"stage_00/{name}") for name in ("weights", "swapped"))
    for codec in ("weight_codec", "activation_codec"):
        v = f"stack2.shortcut.{codec}.v"
        assert state[v].shape[1] == 3
        assert not torch.equal(state[v], swapped[v])
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    x = torch.randn(16, 1, 8, 8)
    again, *_ = load_bundle(run.path)
    with torch.no_grad():
        expected = network(x)
        assert torch.equal(again(x), expected)
        torch.testing.assert_close(prepare(network, x)(x), expected, rtol=1e-3, atol=1e-4)

    assert report["cost"]["bits"] == bit_figures(plan, network)
    assert report["memory"] == memory_figures(network)
    assert 3 < report["cost"]["bits"]["weight_bits"] < 20
    assert all(site["normalized_mse"] is not None for site in report["sites"])
    figures, _ = evaluate_bundle(EvaluateConfig(run=str(run.path), latency=0), {})
    assert figures["accuracy"] == pytest.approx(measured(run.path, figures["samples"])["final"])
    assert figures["cost"] == {key: report["cost"][key] for key in ("exact", "replaced", "bits")}


def test_training_moves_the_masters_and_not_the_masks(finished):
    run = finished("run", "halut=chain", "halut.codecs=[prune,binary_residual]")
    for stage, site in enumerate(LAST):
        before, after = (run.tensors(f"stage_{stage:02d}/{n}") for n in ("swapped", "weights"))
        codec = f"{site}.weight_codec"
        assert not torch.equal(before[f"{site}.weight"], after[f"{site}.weight"])
        assert not torch.equal(before[f"{codec}.format.g"], after[f"{codec}.format.g"])
        mask = f"{codec}.selectors.0.mask"
        assert torch.equal(before[mask], after[mask])
    assert len(run.logged("layers/stack3.conv1/weight_sparsity")) > 0
    assert set(run.logged("layers/stack3.conv1/weight_sparsity")) == {0.5}


def test_training_moves_the_bases_of_lqnet(finished):
    run = finished("run", "halut=lqnet", "halut.activation.width=3", "schedule=all_at_once")
    before, after = (run.tensors(f"stage_00/{name}") for name in ("swapped", "weights"))
    for site in LAST:
        for codec, width in (("weight_codec", 2), ("activation_codec", 3)):
            v, moved = (tensors[f"{site}.{codec}.v"] for tensors in (before, after))
            assert v.shape[1] == width
            assert 0 < (moved - v).abs().max() < v.abs().max()


def test_training_moves_the_bases_and_shifts_of_abcnet(finished):
    options = ("halut=abcnet", "halut.activation.width=2", "halut.contraction=popcount")
    run = finished("run", *options, "schedule=all_at_once")
    before, after = (run.tensors(f"stage_00/{name}") for name in ("swapped", "weights"))
    for site in LAST:
        for name in ("beta", "v"):
            learned = f"{site}.activation_codec.{name}"
            assert len(before[learned]) == 2
            assert not torch.equal(before[learned], after[learned])
        assert not torch.equal(before[f"{site}.weight"], after[f"{site}.weight"])
    assert run.plan[LAST[0]]["options"]["weight"]["width"] == 3
    network, *_ = load_bundle(run.path)
    x = torch.randn(16, 1, 8, 8)
    prepared = prepare(network, x)
    assert sum(isinstance(module, BitLayer) for module in prepared.modules()) == len(LAST)
    with torch.no_grad():
        torch.testing.assert_close(prepared(x), network(x), rtol=1e-3, atol=1e-4)


def test_averaged_weights_keep_the_calibration(finished):
    run = finished("run", "halut=integer", "trainer.ema=0.9", "schedule=all_at_once")
    before, after = (run.tensors(f"stage_00/{name}") for name in ("swapped", "weights"))
    network, *_ = load_bundle(run.path)
    for name in LAST:
        key = f"{name}.activation_codec.exponent"
        assert torch.equal(after[key].round(), before[key])
        scales = network.get_submodule(f"{name}.activation_codec").scales(torch.zeros(1, 1))
        assert torch.equal(scales, before[key].int())


def test_the_command_line_chooses_for_each_factor(finished):
    run = finished(
        "run",
        "halut=block_fp",
        "halut.width=6",
        "halut.weight.name=binary_scaling",
        "halut.activation.block=8",
        "halut.bias.name=integer",
        "halut.bias.width=16",
        "schedule.epochs=0",
    )
    options = run.plan["stack3.conv1"]["options"]
    assert options["weight"]["name"] == "binary_scaling"
    assert (options["activation"]["name"], options["activation"]["block"]) == ("block_fp", 8)
    assert options["activation"]["width"] == 6
    assert (options["bias"]["name"], options["bias"]["width"]) == ("integer", 16)
    assert json.loads((run.path / "bundle" / "plan.json").read_text())


def test_attention_s_products_train_and_come_back(finished):
    names = ("model=tiny_vit", "model.options={dim: 16, depth: 1, heads: 2}")
    options = ("halut=mxint8", "policy.kinds=[linear,attention]", "schedule=all_at_once")
    run = finished("run", *options, only=(), model=names)
    products = "blocks.0.attn.products"
    assert run.plan[products]["operator"] == "mxint8"
    assert run.plan["blocks.0.attn.qkv"]["operator"] == "mxint8"
    network, plan, report = load_bundle(run.path)
    assert isinstance(network.get_submodule(products), CodecAttention)
    assert report["cost"]["bits"] == bit_figures(plan, network)
    assert {s["name"]: s["normalized_mse"] for s in report["sites"]}[products] > 0
    config = EvaluateConfig(run=str(run.path), latency=0)
    config.runtime = RuntimeConfig(mode="eager", attention="fused", rounds=1)
    figures, _ = evaluate_bundle(config, {})
    assert figures["cost"] == {key: report["cost"][key] for key in ("exact", "replaced", "bits")}
    assert figures["runtime"]["ways"].keys() == {"eager, math attention", "eager, fused attention"}
