"""The forward of table layers against loops in numpy, and where it must be exact."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from halut.encoders import encoders
from halut.replace.operator_registry import make_operator
from halut.sites.find import Site
from tests.layers.lut_oracle import LAYERS, inputs_of, make, slow_product

CASES, ENCODERS = list(LAYERS), list(encoders)
ESTIMATORS = [(name, one) for name in ENCODERS for one in encoders[name].estimators]


def assert_is(layer, x, expected):
    y = layer(x)
    assert y.shape == expected.shape
    assert y.dtype == x.dtype
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("case", CASES)
def test_every_geometry_and_encoder(case, encoder):
    layer, source = make(case, encoder)
    x = inputs_of(LAYERS[case][1])
    assert_is(layer, x, slow_product(layer, x))
    assert layer(x).shape == source(x).shape
    torch.testing.assert_close(layer.exact(x), source(x))


@pytest.mark.parametrize("scale", ["layer", "channel", "codebook"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("case", ["linear", "grouped"])
def test_every_scale_of_quantized_tables(case, bits, scale):
    layer, _ = make(case, bits=bits, scale=scale, clip="mse")
    x = inputs_of(LAYERS[case][1])
    assert_is(layer, x, slow_product(layer, x))


@pytest.mark.parametrize("ridge", [None, 1.0])
@pytest.mark.parametrize("parameterization", ["free", "derived"])
@pytest.mark.parametrize(("encoder", "estimator"), ESTIMATORS)
@pytest.mark.parametrize("case", ["linear", "grouped"])
def test_every_estimator_and_parameterization(case, encoder, estimator, parameterization, ridge):
    options = {"estimator": estimator, "parameterization": parameterization, "ridge": ridge}
    layer, _ = make(case, encoder, **options)
    x = inputs_of(LAYERS[case][1])
    assert_is(layer, x, slow_product(layer, x))
    with torch.no_grad():
        assert_is(layer, x, slow_product(layer, x))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("ridge", [None, 1.0])
@pytest.mark.parametrize("case", ["linear", "grouped", "3x3"])
def test_derived_tables_start_as_the_free_ones(case, encoder, ridge):
    free, _ = make(case, encoder, bits=None, ridge=ridge)
    derived, _ = make(case, encoder, bits=None, ridge=ridge, parameterization="derived")
    # Shared prototypes are those the encoder compares with: means up to what k-means has left.
    atol = 2e-2 if derived.shares_prototypes else 1e-4
    torch.testing.assert_close(derived.full_lut(), free.full_lut(), rtol=1e-4, atol=atol)


@pytest.mark.parametrize(("encoder", "estimator"), ESTIMATORS)
def test_the_estimator_never_changes_the_value(encoder, estimator):
    hard, _ = make("grouped", encoder)
    other, _ = make("grouped", encoder, calibrated=False, estimator=estimator)
    other.load_state_dict(hard.state_dict(), strict=True)
    x = inputs_of(LAYERS["grouped"][1]).requires_grad_()
    assert torch.equal(other(x), hard(x))
    for progress in (0.0, 0.3, 1.0):
        other.after_step(progress)
        assert torch.equal(other(x), hard(x))


@pytest.mark.parametrize("case", ["3x3", "grouped", "same"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_layout_in_memory_changes_nothing(case, encoder):
    layer, _ = make(case, encoder)
    x = inputs_of(LAYERS[case][1])
    assert torch.equal(layer(x.to(memory_format=torch.channels_last)), layer(x))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("case", ["linear", "3x3"])
def test_empty_batches_and_single_samples(case, encoder):
    layer, source = make(case, encoder)
    x = inputs_of(LAYERS[case][1])
    assert layer(x[:0]).shape == source(x[:0]).shape
    torch.testing.assert_close(layer(x[1:2]), layer(x)[1:2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_other_dtypes_of_the_input(encoder, dtype):
    layer, _ = make("3x3", encoder)
    x = inputs_of(LAYERS["3x3"][1]).to(dtype)
    y = layer(x)
    assert y.dtype == dtype
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    expected = slow_product(layer, x.float()).to(dtype)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)


def binary_rows(site, N, seed=0):
    """Rows of -1 and 1: every block of V inputs takes at most 2^V values."""
    bits = torch.randint(0, 2, (N, site.D * site.groups),
                         generator=torch.Generator().manual_seed(seed))  # fmt: skip
    return 2.0 * bits - 1


@pytest.mark.parametrize(
    ("D", "C", "K", "groups"),
    [(12, 3, 16, 1), (12, 3, 16, 3), (11, 3, 16, 1), (11, 3, 16, 2), (6, 6, 2, 3), (16, 2, 256, 1)],
)
@pytest.mark.parametrize("encoder", ["tree", "pq"])
@pytest.mark.parametrize("ridge", [None, 1.0])
def test_exact_where_every_block_takes_at_most_K_values(encoder, D, C, K, groups, ridge):
    """Each value has a prototype of its own, so the table product is the exact product."""
    if groups > 1:  # a 1x1 convolution over groups * D channels
        source = nn.Conv2d(groups * D, groups * 5, 1, groups=groups)
        from halut.sites.find import find_sites

        site = find_sites(nn.Sequential(source), torch.zeros(1, groups * D, 1, 1))[0][0]
    else:
        source, site = nn.Linear(D, 5), Site("s", "linear", D, 5)
    rows = binary_rows(site, 40 * K if K < 256 else 6000)
    blocks = [r.unique(dim=0).shape[0] for r in rows[:, :D].split(-(-D // C), dim=1)]
    assert max(blocks) <= K
    layer = make_operator(encoder, C=C, K=K, bits=None, ridge=ridge).build(site, source)
    layer.calibrate(rows)
    fresh = binary_rows(site, 200, seed=1)
    x = fresh[:, :, None, None] if groups > 1 else fresh
    torch.testing.assert_close(layer(x), source(x), rtol=1e-3, atol=1e-4)


def test_int8_tables_of_exact_codes_are_within_half_a_step_per_codebook():
    site, source = Site("s", "linear", 12, 5), nn.Linear(12, 5)
    layer = make_operator("tree", C=3, K=16, bits=8).build(site, source)
    layer.calibrate(binary_rows(site, 2000))
    table = layer.table(layer.full_lut())
    x = binary_rows(site, 300, seed=1)
    error = (layer(x) - source(x)).abs()
    assert (error <= 3 * table.output_scale() / 2 * 1.001 + 1e-5).all()
    assert error.max() > 0


def test_values_the_tree_separates_by_one_input():
    """Blocks of one input with K equally spaced values: cuts in the middle give each its leaf."""
    site, source = Site("s", "linear", 4, 3), nn.Linear(4, 3)
    layer = make_operator("tree", C=4, K=32, bits=None).build(site, source)
    values = list(itertools.islice(itertools.count(-4, 0.25), 32))
    rows = torch.tensor(values).repeat(6)[:, None].repeat(1, 4)
    rows = torch.stack([column[torch.randperm(len(column))] for column in rows.T], dim=1)
    layer.calibrate(rows)
    torch.testing.assert_close(layer(rows), source(rows), rtol=1e-4, atol=1e-4)
