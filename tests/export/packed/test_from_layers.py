"""Integer forms of layers against the layers that prepared networks have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.errors import HalutError
from halut.export.packed.from_layers import Answer, byte_thresholds, product_of, tables_of
from halut.export.packed.tables import NearestTables, TreeTables
from halut.inference.int8_steps import Int8Tables
from halut.inference.onednn import Grid
from halut.inference.table_layers import packed
from halut.ops import accumulate
from halut.sites.find import site_of
from tests.export.packed.layers import LAYERS, one_layer
from tests.oracles.im2col import im2col_reference
from tests.oracles.nearest import nearest_encode_reference
from tests.oracles.tree import tree_encode_reference

GRID, ANSWER = Grid(0.02, 120), Answer(Grid(0.05, 100))
METRICS = ("l2", "l1", "chebyshev")


def lowered(name, operator="tree", grid=GRID, **options):
    """(packed layer, its integer form, byte inputs)."""
    network, x = one_layer(name, operator, **options)
    layer = packed(network[0])
    form = tables_of(layer, grid, ANSWER, layer.geometry_of(x))
    return layer, form, grid.quantize(x)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_byte_thresholds_lead_to_the_entries_of_real_ones(depth):
    torch.manual_seed(depth)
    K = 2**depth
    real = torch.randn(60, K - 1) * 200 + 60  # many below 0, and many above 255
    thresholds, leaves = byte_thresholds(real)
    assert thresholds.dtype == torch.uint8
    assert bool((real < 0).any())
    x = torch.randint(256, (500, 60 * depth)).float()
    x[:2] = torch.tensor([[0.0], [255.0]])
    ours = tree_encode_reference(x, thresholds.float()).long()
    theirs = tree_encode_reference(x, real).long()
    assert torch.equal(leaves.expand(500, -1, -1).gather(2, ours[:, :, None])[:, :, 0], theirs)


@pytest.mark.parametrize("K", [2, 16, 256])
def test_trees_of_every_depth_are_the_prepared_layers(K):
    layer, form, x = lowered("linear", K=K)
    rows = x.float()
    thresholds = layer.thresholds / GRID.scale + GRID.zero_point
    codes = tree_encode_reference(rows[:, layer.taps], thresholds)
    assert torch.equal(form.parts(x)["sums"], accumulate(codes, layer.table))


@torch.no_grad()
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", LAYERS)
def test_bytes_are_those_of_the_prepared_int8_layer(name, bits):
    grid = Grid(0.02, 0)  # the prepared layer pads with the byte 0
    layer, form, x = lowered(name, grid=grid, bits=bits)
    assert isinstance(form, TreeTables)
    assert form.bits == bits
    theirs = Int8Tables(layer, grid, ANSWER.grid)(x)
    ours = form.parts(x)["output"]
    assert ours.shape == theirs.shape
    assert int((ours.int() - theirs.int()).abs().max()) <= 1
    assert float((ours == theirs).float().mean()) > 0.98  # halves, and multipliers of 16 bits


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_a_residual_joins_before_the_relu(name):
    layer, form, x = lowered(name)
    other = Grid(0.03, 31)
    answer = Answer(ANSWER.grid, relu=True, residual=other)
    added = tables_of(layer, GRID, answer, form.geometry)
    alone = form.parts(x)
    residual = torch.randint(256, alone["output"].shape, dtype=torch.uint8)
    zero = torch.full_like(residual, other.zero_point)
    parts = added.parts(x, zero)
    assert torch.equal(parts["sums"], alone["sums"])
    step = ANSWER.grid.scale
    real = ANSWER.grid.dequantize(alone["output"]) + other.dequantize(residual)
    far = ANSWER.grid.dequantize(added.parts(x, residual)["output"]) - real.relu()
    inside = (real < ANSWER.grid.dequantize(torch.tensor(255.0)) - step) & (alone["output"] > 0)
    inside &= alone["output"] < 255
    assert bool(inside.any())
    assert float(far[inside].abs().max()) < 1.1 * step


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", LAYERS)
def test_the_first_of_the_nearest_byte_prototypes_is_taken(name, metric):
    _, form, x = lowered(name, "pq", metric=metric, K=5)
    assert isinstance(form, NearestTables)
    values = x.float()
    if form.geometry is not None:
        values = values - GRID.zero_point  # what the convolution pads with is the number zero
    rows = im2col_reference(values, form.geometry)
    if form.geometry is not None:
        rows = rows + GRID.zero_point
    prototypes = form.prototypes.float()
    expected = nearest_encode_reference(rows, prototypes, metric, len(form.table))
    assert torch.equal(form.parts(x)["codes"], expected)


def test_wide_prototypes_are_compared_exactly():
    _, form, x = lowered("wide", "pq", C=1, K=4)
    far = (x.long()[:, None] - form.prototypes.long()[0]).square().sum(-1)
    assert torch.equal(form.parts(x)["codes"][:, 0].long(), far.argmin(1))


@torch.no_grad()
def test_float_tables_get_8_bits():
    layer, form, x = lowered("linear", bits=None)
    assert layer.table.dtype == torch.float32
    assert form.bits == 8
    exact = layer(GRID.dequantize(x)).clamp(-5, 7.75)  # the range of the answer's grid
    ours = ANSWER.grid.dequantize(form.parts(x)["output"])
    # Half a step of the answer, and half a step of each of two tables' entries.
    step = (layer.table.amax((0, 1, 2)) - layer.table.amin((0, 1, 2))).max() / 254
    assert float((ours - exact).abs().max()) < 0.5 * ANSWER.grid.scale + 2 * float(step)


@torch.no_grad()
def test_exact_layers_are_the_products_of_their_integers():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
    x = torch.randn(3, 4, 7, 8)
    grid, window = Grid.around(x), site_of("", layer, 1).geometry
    exact = layer(x)
    to = Grid.around(exact)
    ours = product_of(layer, grid, Answer(to), window).parts(grid.quantize(x))
    assert ours["sums"].dtype == torch.int32
    assert float((to.dequantize(ours["output"]) - exact).abs().max()) < 4 * to.scale


def test_what_computes_of_its_inputs_is_refused_by_name():
    with pytest.raises(HalutError, match=r"^0 has no integer form: halut\.transform"):
        lowered("linear", transform="hadamard")
    with pytest.raises(HalutError, match=r"^0 has no integer form: its encoder"):
        lowered("linear", "pq", residual=1)
    with pytest.raises(HalutError, match=r"^0 has no integer form: its encoder"):
        lowered("linear", "decision_tree")


def test_a_permutation_is_part_of_the_trees():
    layer, form, x = lowered("linear", transform="permute")
    assert isinstance(form, TreeTables)
    codes = tree_encode_reference(
        x.float()[:, layer.taps], layer.thresholds / GRID.scale + GRID.zero_point
    )
    assert torch.equal(form.parts(x)["sums"], accumulate(codes, layer.table))
