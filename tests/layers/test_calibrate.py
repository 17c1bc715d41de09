"""`calibrate(rows)`: what every layer of a replaced site refuses, and what it leaves alone."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halut.encoders import encoders
from halut.errors import HalutError
from halut.layers.codec_attention import FORMATS
from halut.ops import accumulate
from halut.replace.operator_registry import make_operator, operator_names
from halut.sites.find import Site, find_sites
from halut.sites.operator import ReplacedLayer

SOURCES = {
    "linear": (lambda: nn.Linear(12, 8), (1, 12)),
    "conv": (lambda: nn.Conv2d(3, 8, 2), (1, 3, 6, 6)),
    "grouped": (lambda: nn.Conv2d(6, 8, 2, groups=2), (1, 6, 6, 6)),
}
WIDTHS = {"linear": 12, "conv": 12, "grouped": 24, "attention": 12}
KINDS = [(operator, kind) for operator in operator_names() for kind in SOURCES]
KINDS += [(operator, "attention") for operator in FORMATS]
LARGEST = [(operator, kind) for operator, kind in KINDS if kind in ("grouped", "attention")]


def layer_of(operator: str, kind: str, **options: Any) -> ReplacedLayer:
    """A new layer of the site "here"."""
    torch.manual_seed(0)
    if kind == "attention":
        site = Site("here", "attention", D=4, M=8, groups=3)
        layer = make_operator(operator, **options).build(site, None)
    else:
        make, shape = SOURCES[kind]
        network = nn.Sequential()
        network.add_module("here", make())
        site = find_sites(network, torch.zeros(shape))[0][0]
        layer = make_operator(operator, **options).build(site, network.here)
    assert isinstance(layer, ReplacedLayer)
    return layer


def rows_for(kind: str, count: int = 64, seed: int = 1) -> Tensor:
    return torch.randn(count, WIDTHS[kind], generator=torch.Generator().manual_seed(seed))


def same_state(first: nn.Module, second: nn.Module) -> bool:
    state = second.state_dict()
    return all(torch.equal(value, state[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize(("operator", "kind"), KINDS)
def test_rows_that_cannot_be_are_refused_by_the_layers_name(operator, kind):
    layer, fresh = layer_of(operator, kind), layer_of(operator, kind)
    width, spoiled = WIDTHS[kind], rows_for(kind)
    spoiled[3, 2] = float("nan")
    refused = {
        rf"here: rows must be \[N, {width}\], got \[64, {width - 1}\]": rows_for(kind)[:, 1:],
        rf"here: rows must be \[N, {width}\], got \[{width}\]": rows_for(kind)[0],
        "here: there are no calibration rows": rows_for(kind)[:0],
        "here: calibration rows hold NaN or infinite values": spoiled,
    }
    for message, rows in refused.items():
        with pytest.raises(HalutError, match=f"^{message}$"):
            layer.calibrate(rows)
    with pytest.raises(HalutError, match="NaN or infinite"):
        layer.calibrate(spoiled.nan_to_num(nan=float("-inf")))
    assert same_state(layer, fresh)


@pytest.mark.parametrize(("operator", "kind"), LARGEST)
def test_rows_are_neither_changed_nor_kept(operator, kind):
    layer, rows = layer_of(operator, kind), rows_for(kind)
    version, before, memory = rows._version, rows.clone(), weakref.ref(rows.untyped_storage())
    layer.calibrate(rows)
    assert rows._version == version
    assert torch.equal(rows, before)
    assert not any(value.data_ptr() == rows.data_ptr() for value in layer.state_dict().values())
    del rows
    assert memory() is None


@pytest.mark.parametrize(("operator", "kind"), LARGEST)
def test_layout_and_dtype_of_the_rows_do_not_matter(operator, kind):
    layers = [layer_of(operator, kind) for _ in range(3)]
    rows = rows_for(kind).bfloat16()
    layers[0].calibrate(rows.float(), seed=2)
    layers[1].calibrate(rows.double().T.contiguous().T, seed=2)
    layers[2].calibrate(rows, seed=2)
    assert same_state(layers[0], layers[1])
    assert same_state(layers[0], layers[2])


@pytest.mark.parametrize(("operator", "kind"), LARGEST)
def test_calibrating_again_forgets_what_was_learned(operator, kind):
    layer, fresh = layer_of(operator, kind), layer_of(operator, kind)
    layer.calibrate(3 * rows_for(kind, seed=5), seed=4)
    for each in (layer, fresh):
        each.calibrate(rows_for(kind), seed=1)
    assert same_state(layer, fresh)


@pytest.mark.parametrize(("operator", "kind"), LARGEST)
def test_gradients_stay_as_they_were_asked_for(operator, kind):
    layer = layer_of(operator, kind)
    expected = {name: p.requires_grad for name, p in layer.named_parameters()}
    layer.calibrate(rows_for(kind).requires_grad_())
    assert {name: p.requires_grad for name, p in layer.named_parameters()} == expected
    assert all(p.is_leaf and p.grad is None for p in layer.parameters())


TABLES = [(operator, kind) for operator, kind in KINDS if operator in encoders]


@pytest.mark.parametrize(("operator", "kind"), [case for case in KINDS if case not in TABLES])
def test_layers_without_tables_have_no_use_for_targets(operator, kind):
    layer, other = layer_of(operator, kind), layer_of(operator, kind)
    layer.calibrate(rows_for(kind), seed=1)
    other.calibrate(rows_for(kind), seed=1, target_rows=rows_for(kind, seed=2))
    assert same_state(layer, other)


@pytest.mark.parametrize(("operator", "kind"), TABLES)
@pytest.mark.parametrize("ridge", [None, 0.1, "cv"])
def test_tables_answer_the_product_of_the_targets(operator, kind, ridge):
    rows = rows_for(kind, count=600)
    targets = 2 * rows + 1
    error = {}
    for name, target_rows in (("own", None), ("targets", targets)):
        layer = layer_of(operator, kind, ridge=ridge, bits=None)
        layer.calibrate(rows, target_rows=target_rows)
        lut, groups = layer.full_lut(), layer.site.groups
        sums = accumulate(layer.encoder.codes(layer.encoder.in_units(rows)), lut)
        weight = layer.weight.view(groups, -1, layer.site.D)
        exact = torch.einsum("ngd,gmd->ngm", targets.view(len(targets), groups, -1), weight)
        error[name] = float((sums.view_as(exact) - exact).square().sum() / exact.square().sum())
    assert error["targets"] < 0.8 * error["own"]


@pytest.mark.parametrize(("operator", "kind"), TABLES)
def test_targets_that_are_the_rows_change_nothing(operator, kind):
    for parameterization in ("free", "derived"):
        layers = [layer_of(operator, kind, parameterization=parameterization) for _ in range(2)]
        layers[0].calibrate(rows_for(kind))
        layers[1].calibrate(rows_for(kind), target_rows=rows_for(kind))
        for name, value in layers[0].state_dict().items():
            torch.testing.assert_close(layers[1].state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_targets_have_the_shape_of_the_rows():
    layer = layer_of("tree", "linear")
    with pytest.raises(HalutError, match=r"^here: target_rows must be \[64, 12\] as rows are, got"):
        layer.calibrate(rows_for("linear"), target_rows=rows_for("linear", count=63))


def test_the_range_of_least_error_of_the_sums():
    rows = rows_for("conv", count=400)
    errors = {}
    for clip in ("none", "mse", "output"):
        layer = layer_of("tree", "conv", bits=3, scale="layer", clip=clip)
        layer.calibrate(rows)
        codes = layer.encoder.codes(layer.encoder.in_units(rows))
        error = layer.table(layer.full_lut()).dequantize() - layer.full_lut()
        errors[clip] = float(accumulate(codes, error).square().sum())
    assert errors["output"] < errors["none"]
    assert errors["output"] <= errors["mse"]
