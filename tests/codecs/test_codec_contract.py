"""What every registered codec promises; a new one is tested by being registered."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from halut.bundle import load_bundle, save_bundle
from halut.codecs import Layout, codecs
from halut.codecs.factors import make_codec, resolve_factor
from halut.codecs.packing import pack, unpack
from halut.inference import prepare
from halut.inference.codec_layers import restored
from halut.models.build import build_model
from halut.replace import swap
from halut.replace.operator_registry import config_of
from halut.replace.policy import Rule, resolve
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.sites.plan import Plan

LAYOUTS = (
    Layout("weight", (6, 9, 7)),
    Layout("weight", (5, 1, 40)),
    Layout("activation", (2, 35)),
    Layout("activation", (1, 64)),
    Layout("bias", (1, 6)),
)


@pytest.fixture(params=list(codecs))
def name(request):
    return request.param


@pytest.fixture(params=LAYOUTS, ids=lambda layout: f"{layout.role}{layout.shape[-1]}")
def layout(request):
    return request.param


def values(layout, seed=0, spread=0.4):
    rows = () if layout.dynamic else (50,)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*rows, *layout.shape, generator=generator) * spread
    return x * torch.where(x > 1.2 * spread, 4.0, 1.0)  # a tail, so that something saturates


def calibrated(name, layout, **options):
    kind = codecs[name]
    codec = kind(layout, kind.Config(**options))
    codec.calibrate(values(layout), seed=3)
    return codec


def test_codes_are_whole_and_fit_the_width(name, layout):
    codec, x = calibrated(name, layout), values(layout, 1)
    codes = codec.encode(x).codes
    assert codes.dtype == torch.int32
    assert codes.shape == x.shape
    low, high = 0, 2**codec.width - 1
    if codec.signed or codec.width == 32:
        low, high = -(2 ** (codec.width - 1)), 2 ** (codec.width - 1) - 1
    assert low <= int(codes.min()) <= int(codes.max()) <= high
    assert len(codes.unique()) > 1
    packed = pack(codes, codec.width)
    assert len(packed) == -(-codes.numel() * codec.width // 8)
    again = unpack(packed, codec.width, codes.numel(), codec.signed)
    assert torch.equal(again.view_as(codes), codes)


def test_decoded_values_are_on_the_grid_and_stay_there(name, layout):
    codec, x = calibrated(name, layout), values(layout, 1)
    coded = codec.encode(x)
    q = codec.decode(coded)
    assert q.dtype == torch.float32
    assert torch.equal(codec.fake_quantize(x), q)  # the short way, the same bits
    again = codec.encode(q, coded.scales)
    assert torch.equal(again.codes, coded.codes)
    assert torch.equal(codec.decode(again), q)


def test_quantized_values_are_near_what_was_calibrated(name, layout):
    """Zeros, other signs or another scale than the values' are refused; one bit keeps 0.5."""
    codec, x = calibrated(name, layout), values(layout)
    q = codec.quantize(x).detach()
    assert torch.cosine_similarity(q.flatten(), x.flatten(), dim=0) > 0.5
    if name != "binary":  # which has no scale
        assert (q - x).square().sum() < 0.75 * x.square().sum()
    assert torch.equal(codec.quantize(x), q)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30, 1e30])
def test_constant_values(name, layout, value):
    kind = codecs[name]
    codec = kind(layout)
    x = torch.full_like(values(layout), value)
    assert codec.quantize(x).isfinite().all()  # before calibration too
    codec.calibrate(x)
    q = codec.quantize(x)
    assert q.isfinite().all()


@pytest.mark.parametrize("gradient", ["auto", "identity", "clipped"])
def test_the_gradient_is_the_stated_mask(name, layout, gradient):
    codec = calibrated(name, layout, gradient=gradient)
    x = values(layout, 1).requires_grad_()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    q = codec.quantize(x)
    assert torch.equal(q, codec.fake_quantize(x.detach()))
    q.backward(upstream)
    clips = gradient == "clipped" or (gradient == "auto" and layout.role == "activation")
    assert codec.clips == clips
    mask = codec.gradient_mask(x.detach(), codec.scales(x.detach()))
    expected = upstream if mask is None else upstream * mask
    assert torch.equal(x.grad, expected)
    if clips:
        scales = codec.scales(x.detach())
        low, high = codec.limits(scales)
        beyond = (x < low) | (x > high)
        assert x.grad[beyond].eq(0).all()


def test_state_has_the_shapes_of_an_empty_codec(name, layout):
    codec, x = calibrated(name, layout), values(layout, 1)
    empty = codecs[name](layout)
    empty.load_state_dict(codec.state_dict(), strict=True)
    assert torch.equal(empty.quantize(x), codec.quantize(x))


def test_the_width_of_the_dtype_is_kept(name, layout):
    codec, x = calibrated(name, layout), values(layout, 1)
    for dtype in (torch.bfloat16, torch.float64):
        assert codec.quantize(x.to(dtype)).dtype == dtype


def test_exported_values_and_their_bits(name, layout):
    if not layout.dynamic:
        return
    codec, x = calibrated(name, layout), values(layout)
    packed = codec.export(x)
    assert torch.equal(codec.restore(packed), codec.quantize(x))
    actual = sum(t.numel() * t.element_size() * 8 for t in packed.values())
    assert codec.bits() <= actual < codec.bits() + 8 * len(packed)


def test_specs_are_plain_and_make_the_same_codec(name, layout):
    config = config_of(name, {layout.role: {"name": name}})
    spec = resolve_factor(layout.role, config)
    assert spec["name"] == name
    assert all(isinstance(v, str | int | float | bool | list) for v in spec.values())
    codec = make_codec(spec, layout)
    kind = codecs[name]
    assert type(codec) is kind
    assert codec.options == codec.settled(kind.Config(name=name))


# -- the operator in a network --------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 6, 3, 2, groups=2, dilation=(1, 2), padding=2, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.grouped(torch.relu(self.conv(x))))
        return self.head(x.mean((2, 3)))


def learned(name, network, x):
    """The network with every site replaced by the codec for all its factors, and the plan."""
    sites, _ = find_sites(network, x[:1])
    factors = {factor: {"name": name} for factor in ("weight", "activation", "bias")}
    plan = resolve(sites, [Rule(operator=name, options=factors)], name, {})
    for entry in plan.replaced:
        rows = capture(network, [entry.site], [x])[entry.site.name]
        swap.replace_site(network, entry, rows, seed=1)
    return plan


@pytest.fixture
def x():
    return torch.randn(8, 2, 9, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Net().eval()


def test_plan_and_state_come_back(name, network, x, tmp_path):
    plan = learned(name, network, x)
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    again = swap.apply(Net().eval(), loaded)
    again.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(again(x), network(x))
    assert torch.equal(network(x), network(x))


def test_one_training_step_is_finite_and_moves(name, network, x):
    learned(name, network, x)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = {k: v.clone() for k, v in network.named_parameters()}
    network(x).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    optimizer.step()
    for _, layer in swap.replaced_layers(network):
        layer.after_step(0.5)
    assert network(x).isfinite().all()
    moved = {k for k, v in network.named_parameters() if not torch.equal(v, before[k])}
    assert "head.weight" in moved
    roles = [
        p for _, m in swap.replaced_layers(network) for g in m.param_groups().values() for p in g
    ]
    assert {id(p) for p in roles} == {id(p) for p in network.parameters()}


def test_packed_execution_is_the_reference(name, network, x):
    learned(name, network, x)
    for _, layer in swap.replaced_layers(network):
        weight, bias = restored(layer)
        assert torch.equal(weight, layer.quantized_weight())
        assert (bias is None) == (layer.bias is None)
    with torch.no_grad():
        assert torch.equal(prepare(network)(x), network(x))
    program = torch.export.export(prepare(network), (x,))
    torch.testing.assert_close(program.module()(x), network(x).detach())


def test_bundles_hold_it(name, tmp_path):
    torch.manual_seed(0)
    network, x = build_model("resnet8", 10, 1, width=4).eval(), torch.randn(4, 1, 8, 8)
    plan = learned(name, network, x)
    model = {"name": "resnet8", "source": "local", "num_classes": 10, "in_channels": 1}
    plan = dataclasses.replace(plan, model={**model, "options": {"width": 4}})
    save_bundle(tmp_path, network, plan, {})
    assert torch.equal(load_bundle(tmp_path)[0](x), network(x))
