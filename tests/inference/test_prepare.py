"""A prepared network answers as the network in evaluation mode, and holds what that takes."""

import copy
import logging

import pytest
import torch
from timm.layers import create_conv2d
from torch import nn

from halut.errors import HalutError
from halut.inference import PackedConv2d, PackedLayer, prepare
from halut.inference.table_layers import packed
from halut.layers import LUTLayer
from halut.replace.operator_registry import make_operator
from halut.sites.find import find_sites
from tests.inference.networks import NETWORKS, gap, network_of, replaced

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def kinds(network):
    return [type(module) for module in network.modules()]


@pytest.fixture(scope="module")
def resnet8():
    network, x = network_of("resnet8")
    return replaced(network, x, keep_first=True)[0], x


@pytest.mark.parametrize("operator", ["tree", "pq"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_equals_the_network_in_evaluation_mode(name, operator):
    network, x = network_of(name)
    replaced(network, x, operator)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    prepared = prepare(network, x[:1])
    assert not any(issubclass(kind, LUTLayer) for kind in kinds(prepared))
    assert name == "tiny_vit" or nn.BatchNorm2d not in kinds(prepared)
    for layout in LAYOUTS.values():
        x = x.contiguous(memory_format=layout)
        expected = network(x)
        assert gap(prepared(x), expected) < 1e-5
        assert gap(torch.cat([prepared(x[n : n + 1]) for n in range(5)]), expected) < 1e-5
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    "options",
    [
        {"bits": None},
        {"scale": "codebook"},
        {"scale": "layer", "bits": 4, "clip": "mse"},
        {"parameterization": "derived"},
    ],
)
@torch.no_grad()
def test_every_kind_of_table(options):
    network, x = network_of("ds_cnn")  # depthwise and 1x1
    replaced(network, x, options=options)
    prepared = prepare(network)
    assert gap(prepared(x), network(x)) < 1e-5
    for layer in (m for m in prepared.modules() if isinstance(m, PackedLayer)):
        floating = options.get("bits", 8) is None or (
            options.get("scale") == "codebook" and layer.table.shape[1] > 1
        )
        assert layer.table.dtype == (torch.float32 if floating else torch.int8)


@pytest.mark.parametrize(
    ("operator", "options"), [("decision_tree", {}), ("pq", {"output_metric": True})]
)
@torch.no_grad()
def test_encoders_without_an_operator_of_their_own(operator, options):
    network, x = network_of("resnet8")
    replaced(network, x, operator, options)
    assert gap(prepare(network)(x), network(x)) < 1e-5


def test_norms_and_relus_are_folded(resnet8):
    network, x = resnet8
    prepared = prepare(network, x)
    assert nn.BatchNorm2d not in kinds(prepared)
    packed = [m for m in prepared.modules() if isinstance(m, PackedConv2d)]
    assert sorted({layer.low for layer in packed}, key=str) == [0.0, None]
    calls = {str(node.target) for node in prepared.graph.nodes if node.op == "call_module"}
    relus = {call for call in calls if "act" in call}
    assert relus == {"act1"}  # of the exact stem; sums are part of the layers before them
    assert not any(
        node.op == "call_function" and "add" in node.name for node in prepared.graph.nodes
    )
    sums = {str(node.target) for node in prepared.graph.nodes if len(node.all_input_nodes) == 2}
    assert len(sums) == 3


@torch.no_grad()
def test_holds_little(resnet8):
    network, x = resnet8
    prepared = prepare(network, x)
    assert not any(p.requires_grad for p in prepared.parameters())
    for name, layer in network.named_modules():
        if isinstance(layer, LUTLayer):
            packed = prepared.get_submodule(name)
            saved = sum(value.nbytes for value in packed.state_dict().values())
            entries = layer.lut.numel()
            small = packed.taps.nbytes + packed.thresholds.nbytes + 8 * layer.site.M
            assert saved == entries + small
            assert list(packed.parameters()) == [packed.like]
            assert packed.like.numel() == 1


@torch.no_grad()
def test_state_dict_round_trip(resnet8):
    network, x = resnet8
    prepared, other = prepare(network), prepare(network)
    for value in other.state_dict().values():
        value.zero_()
    assert not torch.equal(other(x), prepared(x))
    other.load_state_dict(prepared.state_dict())
    assert torch.equal(other(x), prepared(x))


@pytest.mark.parametrize("operator", ["tree", "pq"])
@torch.no_grad()
def test_compiles_and_exports_whole(operator, tmp_path):
    network, x = network_of("resnet8")
    prepared = prepare(replaced(network, x, operator)[0], x)
    expected = prepared(x)
    compiled = torch.compile(prepared, fullgraph=True, backend="aot_eager")
    assert gap(compiled(x), expected) < 1e-5
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.export.save(torch.export.export(prepared, (x,), dynamic_shapes=batch), tmp_path / "n.pt2")
    loaded = torch.export.load(tmp_path / "n.pt2").module()
    assert gap(loaded(x), expected) < 1e-5
    assert loaded(x[:2]).shape == (2, 10)


def same_padded():
    """A packed convolution whose padding depends on its input, as TensorFlow pads, and inputs."""
    torch.manual_seed(0)
    exact = create_conv2d(8, 16, 3, stride=2, padding="same")
    x = torch.randn(2, 8, 15, 14)
    site = find_sites(nn.Sequential(exact), x)[0][0]
    return packed(make_operator("tree").build(site, exact)).eval(), x


@pytest.mark.filterwarnings("error")
@torch.no_grad()
def test_padding_by_the_maps_size_eager_and_compiled():
    layer, x = same_padded()
    inputs = (x, x[..., :13], x, x.flip(0))
    answers = [layer(value) for value in inputs]
    assert [list(y.shape[2:]) for y in answers] == [[8, 7]] * 4
    assert len(layer.calls.entries) == 2
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    for value, expected in zip(inputs, answers, strict=True):
        assert torch.equal(compiled(value), expected)


@torch.no_grad()
def test_new_tensors_are_answered_with():
    layer, x = same_padded()
    before = layer(x)
    layer.scale_and_shift(torch.full((16,), 2.0), torch.ones(16))
    assert gap(layer(x), 2 * before + 1) < 1e-6
    layer.thresholds = layer.thresholds + 100
    other = layer(x)
    assert not torch.equal(other, before)
    assert torch.equal(copy.deepcopy(layer)(x), other)
    layer.load_state_dict(same_padded()[0].state_dict())
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_narrow_inputs(resnet8, dtype):
    network, x = resnet8
    prepared = prepare(network, x)
    expected = prepared(x)
    narrow = prepare(network, x).to(dtype)
    y = narrow(x.to(dtype))
    assert y.dtype == dtype
    assert gap(y, expected) < torch.finfo(dtype).eps  # the median sample's: no code of it differs
    layer = next(m for m in narrow.modules() if isinstance(m, PackedConv2d))
    assert layer.scale.dtype == layer.thresholds.dtype == torch.float32
    rows = torch.randn(2, layer.channels, 6, 6).to(dtype)
    assert torch.equal(layer(rows), layer(rows.float()).to(dtype))


class Branching(nn.Module):
    """What torch.fx cannot follow, or follows wrongly."""

    def __init__(self, by_value: bool):
        super().__init__()
        self.by_value = by_value
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.norm.bias.data.fill_(0.5)

    def forward(self, x):
        if self.by_value and x.sum() > 0:
            return torch.relu(self.norm(self.conv(x)))
        if type(x) is torch.Tensor:  # a stand-in is not
            x = x + 1
        return self.norm(self.conv(x))


@pytest.mark.parametrize("by_value", [True, False])
@torch.no_grad()
def test_what_cannot_be_traced_is_right_without_folding(by_value, caplog):
    torch.manual_seed(0)
    network, x = Branching(by_value).eval(), torch.randn(4, 2, 6, 6)
    replaced(network, x)
    with caplog.at_level(logging.WARNING, "halut"):
        prepared = prepare(network, x)
    assert sum("torch.fx cannot follow Branching" in line for line in caplog.messages) == 1
    assert nn.BatchNorm2d in kinds(prepared)
    for sign in (1, -1):
        assert gap(prepared(sign * x.abs()), network(sign * x.abs())) < 1e-6


class WithOption(nn.Module):
    """An argument that may be left out, and a layer used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.norm.bias.data.fill_(0.5)
        self.head = nn.Linear(3, 4)

    def forward(self, x, mask=None):
        x = self.norm(self.first(x))
        x = torch.relu(self.first(x))
        if mask is not None:
            x = x * mask
        return self.head(x.mean((2, 3))).relu()


@torch.no_grad()
def test_shared_layers_and_optional_arguments():
    torch.manual_seed(0)
    network, x = WithOption().eval(), torch.randn(4, 3, 6, 6)
    replaced(network, x)
    prepared = prepare(network, x)
    assert gap(prepared(x), network(x)) < 1e-5
    assert prepared.get_submodule("head").low == 0.0
    assert prepared.get_submodule("first").low is None
    with pytest.raises(AssertionError):
        prepared(x, x)  # prepared without it


def test_refusals():
    network, x = network_of("resnet8")
    replaced(network, x, options={"average": 2, "C": 4}, keep_first=True)
    with pytest.raises(HalutError, match=r"halut\.average=null"):
        prepare(network)
    network, x = network_of("resnet8")
    prepared = prepare(replaced(network, x, keep_first=True)[0])
    with pytest.raises(HalutError, match="has no gradient"):
        prepared(x.requires_grad_())
    layer = next(m for m in prepared.modules() if isinstance(m, PackedConv2d))
    with pytest.raises(HalutError, match="takes maps of 4 channels"):
        layer(x)
    with pytest.raises(HalutError, match="with something in it"):
        prepared.get_submodule("stack2.shortcut")(torch.zeros(1, 4, 0, 3))
