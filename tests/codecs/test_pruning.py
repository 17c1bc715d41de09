"""Pruning against torch.nn.utils.prune, its masks, and number formats for what stays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from halut.errors import HalutError
from halut.replace import swap
from halut.replace.global_pruning import with_global_pruning
from halut.replace.policy import Rule, resolve
from halut.sites.find import find_sites
from tests.codecs.number_formats import make, normal, quantized

SPARSITIES = (0.0, 0.1, 0.37, 0.5, 0.9, 0.999)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_l1_is_torchs(sparsity):
    x = normal(17 * 23).view(17, 23)
    linear = nn.Linear(23, 17)
    linear.weight.data.copy_(x)
    prune.l1_unstructured(linear, "weight", round(sparsity * x.numel()))
    assert torch.equal(quantized("prune", x, sparsity=sparsity), linear.weight)


@pytest.mark.parametrize("method", ["l1", "random"])
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_sparsity_is_met_for_constant_tensors_too(method, sparsity):
    for x in (normal(301)[None], torch.ones(1, 301), torch.zeros(1, 301), normal(3)[None]):
        codec, _ = make("prune", x, sparsity=sparsity, method=method)
        actual = 1 - float(codec.mask.float().mean())
        assert abs(actual - sparsity) <= 1 / x.numel()


def test_random_masks_are_drawn_once_and_saved():
    codec, x = make("prune", normal(400)[None], method="random")
    first = codec.quantize(x)
    torch.manual_seed(5)
    assert torch.equal(codec.quantize(x), first)
    assert torch.equal(codec.eval().quantize(x), first)
    assert torch.equal(codec.quantize(x * 2), first * 2)
    mask = codec.mask.clone()
    codec.calibrate(x, seed=7)
    other = codec.mask.clone()
    codec.calibrate(x, seed=0)
    assert torch.equal(codec.mask, mask)
    assert not torch.equal(other, mask)
    assert 40 < int((mask & codec.quantize(x).ne(0) & (x.abs() < x.abs().median())).sum()) < 160
    state = torch.random.get_rng_state()
    codec.calibrate(x, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_features_of_activations():
    x = normal(200 * 10, 1.0).view(200, 10) * torch.arange(1.0, 11)
    codec, values = make("prune", x, role="activation", sparsity=0.4)
    assert codec.mask.flatten().tolist() == [False] * 4 + [True] * 6
    q = codec.quantize(values)
    assert q[..., :4].eq(0).all()
    assert torch.equal(q[..., 4:], values[..., 4:])


def test_what_stays_has_the_number_format():
    x = normal(64 * 8).view(8, 64)
    q = quantized("chain", x, sparsity=0.75, width=4)
    keep_mask = quantized("prune", x, sparsity=0.75)
    assert torch.equal(q, quantized("integer", keep_mask, width=4))
    assert ((q == 0) >= (keep_mask == 0)).all()
    codec, values = make("chain", x, codecs=["prune", "binary_scaling"], sparsity=0.75)
    q = codec.quantize(values).view(8, 64)
    assert torch.equal(q == 0, keep_mask == 0)  # although the format has no zero
    alpha = keep_mask.abs().sum(1) / (keep_mask != 0).sum(1)
    torch.testing.assert_close(q.abs().amax(1), alpha)


def test_bits_of_sparse_weights():
    codec, _ = make("chain", normal(1000)[None], sparsity=0.9, width=8)
    assert codec.bits() == 100 * 8 + 1000 + 8  # codes, the mask, one exponent
    dense, _ = make("chain", normal(1000)[None], sparsity=0.0, width=8)
    assert dense.bits() == 1000 * 8 + 8
    assert make("prune", normal(1000)[None], sparsity=0.9)[0].bits() == 100 * 32 + 1000


def test_a_learned_basis_after_pruning_learns():
    codec, x = make("chain", normal(40)[None], codecs=["prune", "binary_residual"])
    x = x.clone().requires_grad_()
    codec.quantize(x).sum().backward()
    assert codec.format.g.grad.abs().sum() > 0
    assert torch.equal(x.grad, codec.mask.float())


# -- over all layers ------------------------------------------------------------------------------


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 6), nn.Linear(6, 2)]
    network = nn.Sequential(*layers)
    network[2].weight.data *= 0.5
    return network


def planned(network, **options):
    sites, _ = find_sites(network, torch.zeros(1, 1, 8, 8))
    return resolve(sites, [Rule(operator="prune", options=options)], "prune", {})


@pytest.mark.parametrize("method", ["l1", "random"])
def test_global_pruning_is_torchs(network, method):
    plan = planned(network, scope="global", sparsity=0.6, method=method)
    settled = with_global_pruning(plan, network, seed=4)
    reference = copy.deepcopy(network)
    places = [(reference[i], "weight") for i in (0, 2, 3)]
    kind = {"l1": prune.L1Unstructured, "random": prune.RandomUnstructured}[method]
    count = round(0.6 * sum(module.weight.numel() for module, _ in places))
    torch.manual_seed(4)
    prune.global_unstructured(places, kind, amount=count)
    swap.apply(network, settled)
    for index in (0, 2, 3):
        layer, expected = network[index], reference[index].weight
        layer.calibrate(torch.zeros(1, layer.site.D))
        q = layer.quantized_weight().view_as(expected)
        assert int((q == 0).sum()) == int((expected == 0).sum())
        if method == "l1":
            assert torch.equal(q, expected)
    weight = settled["2"].options["weight"]
    assert weight["scope"] == "local"
    assert with_global_pruning(settled, network) == settled


def test_global_pruning_that_empties_a_layer_is_refused(network):
    network[2].weight.data *= 1e-6
    plan = planned(network, scope="global", sparsity=0.99)
    with pytest.raises(HalutError, match=r"leaves none of 2: lower halut\.sparsity"):
        with_global_pruning(plan, network)


def test_a_global_layer_alone_is_refused(network):
    layer = swap.build(network, planned(network, scope="global")["0"])
    with pytest.raises(HalutError, match="settled over a whole plan"):
        layer.calibrate(torch.zeros(1, layer.site.groups * layer.site.D))
