"""Residual codebooks: each codes what those before it leave of the same block."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import halut
from halut.configs import PQ, DecisionTree, Tree
from halut.encoders import encoders
from halut.errors import HalutError
from halut.inference import prepare
from halut.layers.matmul import HalutMatmul
from halut.ops.blocks import Blocks
from halut.prototypes.buckets import bucket_means, reconstruct
from halut.replace.operator_registry import make_operator
from halut.sites.find import find_sites
from tests.inference.networks import gap
from tests.layers.lut_oracle import LAYERS, inputs_of, make, slow_product

NAMES = ("tree", "pq")
BLOCKS = [Blocks(12, 6, 1, 2), Blocks(7, 9, 2, 3), Blocks(5, 2, 1, 2)]


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def learned(name, blocks, K=8, N=600, **options):
    encoder = encoders[name](blocks, K, make_operator(name, **options, K=K).config)
    rows = normal(N, blocks.inputs) @ normal(blocks.inputs, blocks.inputs, seed=2)
    return encoder, rows, encoder.calibrate(rows)


def slow_sum(codes, prototypes, blocks):
    """Rows by loops: every codebook's prototype added at the inputs of its block."""
    rows = np.zeros((len(codes), blocks.inputs))
    for n in range(len(codes)):
        for c, (start, width) in enumerate(zip(blocks.starts, blocks.widths, strict=True)):
            rows[n, start : start + width] += prototypes[c, int(codes[n, c]), :width].numpy()
    return torch.from_numpy(rows).float()


def test_stages_lie_over_the_same_blocks():
    blocks = Blocks(7, 6, 2, 2)
    assert blocks.widths == [3, 2, 2] * 4
    assert blocks.starts == [0, 3, 5, 0, 3, 5, 7, 10, 12, 7, 10, 12]
    assert (blocks.V, blocks.total, blocks.even) == (3, 12, False)
    assert blocks.of_stage == Blocks(7, 3, 2)
    rows = normal(4, 14)
    split = blocks.split(rows).view(4, 2, 2, 3, 3)
    assert torch.equal(split[:, :, 0], split[:, :, 1])
    assert torch.equal(split[:, :, 0].flatten(1, 2), blocks.of_stage.split(rows))
    with pytest.raises(HalutError, match="stages must divide the 5"):
        Blocks(7, 5, 1, 2)
    with pytest.raises(HalutError, match=r"C must be 2 times in 1\.\.3, got 8"):
        Blocks(3, 8, 1, 2)


@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_prototypes_are_means_of_what_is_left(name, blocks):
    encoder, rows, prototypes = learned(name, blocks, residual=blocks.stages - 1)
    codes = encoder.codes(rows)
    assert codes.shape == (600, blocks.total)
    whole = reconstruct(codes, prototypes, blocks)
    torch.testing.assert_close(whole[:20], slow_sum(codes[:20], prototypes, blocks))
    one, spans = blocks.of_stage, blocks.C // blocks.stages
    rest = rows
    for stage in range(blocks.stages):
        books = [
            g * blocks.C + stage * spans + b for g in range(blocks.groups) for b in range(spans)
        ]
        expected = bucket_means(rest, codes[:, books], one, prototypes[books])
        torch.testing.assert_close(prototypes[books], expected, rtol=1e-4, atol=1e-4)
        before, rest = rest, rest - reconstruct(codes[:, books], prototypes[books], one)
        assert rest.square().sum() < 0.85 * before.square().sum()  # every stage codes something


@pytest.mark.parametrize("metric", ["l2", "l1", "chebyshev"])
def test_codes_of_pq_are_nearest_to_the_rest(metric):
    blocks = Blocks(7, 6, 1, 2)
    encoder, rows, _ = learned("pq", blocks, residual=1, metric=metric)
    rows = rows[:50]
    codes, P = encoder.codes(rows), encoder.prototypes.detach()
    p = {"l2": 2.0, "l1": 1.0, "chebyshev": float("inf")}[metric]
    for b, (start, width) in enumerate(zip(blocks.starts[:3], blocks.widths[:3], strict=True)):
        rest = rows[:, start : start + width]
        for book in (b, 3 + b):
            expected = torch.cdist(rest, P[book, :, :width], p=p).argmin(1)
            assert torch.equal(codes[:, book].long(), expected)
            rest = rest - P[book, expected, :width]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", LAYERS)
def test_the_product_is_the_oracles(case, name):
    for options in ({}, {"parameterization": "derived", "ridge": 2.0, "bits": None}):
        layer, _ = make(case, name, residual=1, **options)
        x = inputs_of(LAYERS[case][1])
        expected = slow_product(layer, x).float()
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_tables_derived_from_the_prototypes_compared_with():
    layer, _ = make("grouped", "pq", residual=1, parameterization="derived", ridge=None)
    x = inputs_of(LAYERS["grouped"][1])
    expected = slow_product(layer, x).float()
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    rows = normal(6, 54)  # and as the weight's product with the sum of prototypes
    coded = reconstruct(layer.encoder.codes(rows), layer.encoder.prototypes, layer.blocks)
    W = layer.weight.view(3, 3, 18)
    product = torch.einsum("ngd,gmd->ngm", coded.view(6, 3, 18), W)
    codes = layer.encoder.codes(rows).view(6, 3, 8)
    looked_up = torch.stack(
        [sum(layer.full_lut()[g, c][codes[:, g, c].long()] for c in range(8)) for g in range(3)],
        1,
    )
    torch.testing.assert_close(looked_up, product, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tau_per", ["layer", "codebook"])
def test_gradients_of_pq_are_those_of_the_written_out_relaxation(tau_per):
    """One-hot codes straight through softmax(-distance / tau) of each stage, by autograd alone."""
    layer, _ = make("linear", "pq", residual=2, bits=None, tau_per=tau_per)
    x = inputs_of((9, 11)).requires_grad_()
    y = layer(x)
    grad = normal(*y.shape, seed=3)
    P, tau = layer.encoder.prototypes, layer.tau
    theirs = torch.autograd.grad(_relaxed(layer, x).mul(grad).sum(), [x, P, tau, layer.lut])
    ours = torch.autograd.grad(y.mul(grad).sum(), [x, P, tau, layer.lut])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def _relaxed(layer, x):
    P, lut, blocks = layer.encoder.prototypes, layer.lut[0], layer.blocks
    spans, y = blocks.C // blocks.stages, layer.bias
    for b, (start, width) in enumerate(zip(blocks.starts, blocks.widths, strict=True)):
        if b == spans:
            break
        rest = x[:, start : start + width]
        for book in range(b, blocks.C, spans):
            prototypes = P[book, :, :width]
            distance = (rest[:, None] - prototypes).square().sum(-1)
            tau = layer.tau if layer.tau.ndim == 0 else layer.tau[book]
            soft = torch.softmax(-distance / tau, -1)
            code = distance.argmin(1)
            hard = nn.functional.one_hot(code, P.shape[1]).float()
            y = y + (soft + (hard - soft).detach()) @ lut[book]
            rest = rest - prototypes[code]
    return y


@pytest.mark.parametrize("name", NAMES)
def test_residual_codebooks_lower_the_error_and_count_in_the_tables(name):
    rows = normal(1500, 32) @ normal(32, 32, seed=2)

    def measured(residual):
        torch.manual_seed(0)
        source = nn.Linear(32, 16)
        site = find_sites(nn.Sequential(source), torch.zeros(1, 32))[0][0]
        layer = make_operator(name, C=4, residual=residual).build(site, source)
        layer.calibrate(rows[:1000])
        return layer.diagnose(rows[1000:])["normalized_mse"], layer.cost()

    (error, cost), (less, doubled) = measured(0), measured(1)
    assert less < 0.75 * error
    for key in ("table_bytes", "lookups", "index_bits", "encode_compares", "encoder_bytes"):
        assert doubled[key] == 2 * cost[key]
    assert doubled["encode_macs"] == 2 * cost["encode_macs"]
    assert doubled["encode_adds"] == (32 if name == "pq" else 0)  # what the first stage leaves


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.pool(torch.relu(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize("config", [Tree(residual=1, K=8), PQ(residual=1, K=8)], ids=NAMES)
def test_prepared_in_bytes_and_saved(config, tmp_path):
    torch.manual_seed(0)
    network, x = Small().eval(), normal(8, 3, 6, 6)
    halut.replace_(network, config, [x], keep_first=False, keep_last=False)
    network.eval()
    assert network.conv.lut.shape == (1, 6, 8, 8)
    halut.save(network, tmp_path / "bundle")
    assert torch.equal(halut.load(tmp_path / "bundle", Small).eval()(x), network(x))
    assert torch.equal(copy.deepcopy(network)(x), network(x))
    with torch.no_grad():
        assert gap(prepare(network, x)(x), network(x)) < 1e-4
        assert gap(prepare(network, calibration=x)(x), network(x)) < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_a_stand_alone_product(name):
    A, B = normal(400, 16), normal(16, 5, seed=2)
    options = {"tree": Tree, "pq": PQ}[name](residual=1)
    errors = []
    for residual in (None, options):
        product = HalutMatmul(C=4, encoder=name, options=residual)
        product.learn_offline(A, B)
        errors.append(product.stats(A, B)["normalized_mse"])
    assert errors[1] < 0.7 * errors[0]


def test_refusals():
    for config in (Tree, PQ):
        with pytest.raises(HalutError, match=r"halut\.residual must be at least 0, got -1"):
            config(residual=-1)
    with pytest.raises(HalutError, match=r"needs halut\.output_metric=false"):
        PQ(residual=1, output_metric=True)
    with pytest.raises(HalutError, match=r"'tree'; choose one of: auto, soft, identity, blend"):
        PQ(residual=1, estimator="tree")
    with pytest.raises(TypeError):
        DecisionTree(residual=1)
