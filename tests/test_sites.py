"""Sites: what can be replaced, in which order, with which shapes, and what cannot and why."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from halut.errors import HalutError
from halut.ops.geometry import ConvGeometry
from halut.sites.find import Site, find_sites


def timm_model(name):
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=7)


class Backwards(nn.Module):
    """Registers its layers in another order than it calls them, and calls one of them twice."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(6, 3)
        self.twice = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.first = nn.Conv2d(2, 6, (3, 2), stride=(2, 1), bias=False)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = self.twice(self.twice(self.first(x)))
        return self.last(x.mean((2, 3)))


def test_sites_come_in_the_order_of_the_forward_pass():
    sites, unsupported = find_sites(Backwards(), torch.zeros(1, 2, 9, 8))
    assert [site.name for site in sites] == ["first", "twice", "last"]
    assert {u.name: u.reason for u in unsupported} == {"unused": "not called in a forward pass"}


def test_shapes_rows_and_kinds():
    sites, _ = find_sites(Backwards(), torch.zeros(1, 2, 9, 8))
    first, twice, last = sites
    geometry = ConvGeometry((3, 2), (2, 1), (0, 0, 0, 0), (1, 1))
    assert first == Site("first", "conv2d", 2 * 3 * 2, 6, 1, False, 4 * 7, geometry)
    assert twice.rows == 2 * 4 * 7  # two calls
    assert (twice.D, twice.M, twice.groups, twice.bias) == (3 * 9, 6, 2, True)
    assert last == Site("last", "linear", 6, 3, 1, True, 1)
    assert [s.describe() for s in sites] == ["conv 3x2", "grouped 3x3", "linear"]
    assert [s.macs for s in sites] == [28 * 12 * 6, 56 * 27 * 6, 18]


def test_depthwise_needs_one_channel_per_group():
    network = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 8, 3, groups=4))
    sites, _ = find_sites(network, torch.zeros(1, 4, 8, 8))
    assert [site.depthwise for site in sites] == [True, False]
    assert sites[0].describe() == "depthwise 3x3"


def test_tokens_are_rows():
    network = nn.Sequential(nn.Linear(5, 4), nn.Flatten(), nn.Linear(12, 2))
    sites, _ = find_sites(network, torch.zeros(1, 3, 5))
    assert [site.rows for site in sites] == [3, 1]


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(2 * x)


class Conv2dSame(nn.Conv2d):
    """Of timm's class only the name."""

    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "padding_mode='circular'"),
        (OwnConv(2, 2, 3), "OwnConv is a subclass"),
        (Conv2dSame(2, 2, 3), "Conv2dSame is a subclass"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3)), "weight_norm"),
    ],
)
def test_what_computes_otherwise_is_left_alone(layer, reason):
    network = nn.Sequential(layer, nn.Conv2d(2, 2, 1))
    sites, unsupported = find_sites(network, torch.zeros(1, 2, 6, 6))
    assert [site.name for site in sites] == ["1"]
    assert [u.name for u in unsupported] == ["0"]
    assert reason in unsupported[0].reason


def test_attention_that_reads_its_weight_without_calling_it():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.attention(x, x, x)[0])

    sites, unsupported = find_sites(Block(), torch.zeros(1, 3, 4))
    assert [site.name for site in sites] == ["out"]
    assert [u.name for u in unsupported] == ["attention.out_proj"]
    assert "MultiheadAttention" in unsupported[0].reason


def test_the_whole_network_is_no_site():
    sites, unsupported = find_sites(nn.Linear(3, 2), torch.zeros(1, 3))
    assert sites == []
    assert "whole network" in unsupported[0].reason


def test_modes_and_statistics_are_left_as_they_were():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    network[1].eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    find_sites(network, torch.ones(1, 1, 5, 5))
    assert [m.training for m in network] == [True, False, True]
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize(
    ("network", "example"),
    [
        (nn.Sequential(nn.Linear(3, 2)), torch.zeros(1, 4)),
        (timm_model("deit_tiny_patch16_224"), torch.zeros(1, 3, 32, 32)),  # timm asserts
    ],
)
def test_an_input_the_network_cannot_take_is_named(network, example):
    network.train()
    with pytest.raises(HalutError, match=f"input of shape .{', '.join(map(str, example.shape))}"):
        find_sites(network, example)
    assert network.training
    assert not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize(
    ("name", "size", "count", "first", "last"),
    [
        ("resnet18", 32, 21, "conv1", "fc"),
        ("deit_tiny_patch16_224", 224, 50, "patch_embed.proj", "head"),
        ("resmlp_12_224", 224, 38, "stem.proj", "head"),
        ("levit_128s", 224, 52, "stem.conv1.linear", "head.linear"),
        ("tf_efficientnet_lite0", 64, 50, "conv_stem", "classifier"),
    ],
)
def test_networks_of_the_field(name, size, count, first, last):
    network = timm_model(name)
    sites, unsupported = find_sites(network, torch.zeros(1, 3, size, size))
    replaceable = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert {s.name for s in sites} | {u.name for u in unsupported} == set(replaceable)
    names = [site.name for site in sites]
    assert (len(sites), names[0]) == (count, first)
    assert last in names[-2:]  # levit ends in two heads


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 64), ("resmlp_12_224", 224), ("tf_efficientnet_lite0", 64)]
)
def test_multiply_adds_are_those_torch_counts(name, size):
    network, example = timm_model(name).eval(), torch.zeros(1, 3, size, size)
    sites, _ = find_sites(network, example)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(example)
    assert 2 * sum(site.macs for site in sites) == counter.get_total_flops()


def test_rows_and_order_of_known_networks():
    sites, _ = find_sites(timm_model("resnet18"), torch.zeros(1, 3, 64, 64))
    by_name = {site.name: site for site in sites}
    assert by_name["conv1"].rows == 32 * 32
    assert by_name["layer4.1.conv2"].rows == 2 * 2
    names = list(by_name)
    assert names.index("layer2.0.conv2") < names.index("layer2.0.downsample.0")
    sites, _ = find_sites(timm_model("deit_tiny_patch16_224"), torch.zeros(1, 3, 224, 224))
    by_name = {site.name: site for site in sites}
    assert by_name["patch_embed.proj"].rows == 196
    assert by_name["blocks.3.attn.qkv"].rows == 197  # tokens and the class token
    assert by_name["head"].rows == 1


def test_tensorflow_padding_of_efficientnet_lite():
    network = timm_model("tf_efficientnet_lite0")
    sites, _ = find_sites(network, torch.zeros(1, 3, 64, 64))
    by_name = {site.name: site for site in sites}
    stem = by_name["conv_stem"].geometry
    assert stem.same
    assert stem.pads(64, 64) == (0, 1, 0, 1)
    assert stem.pads(65, 65) == (1, 1, 1, 1)
    assert stem.output_size(65, 64) == (33, 32)
    assert by_name["blocks.1.0.conv_dw"].depthwise


def test_a_site_survives_json():
    import json

    for site in find_sites(Backwards(), torch.zeros(1, 2, 9, 8))[0]:
        assert Site.from_dict(json.loads(json.dumps(site.to_dict()))) == site
    same = Site("s", "conv2d", 9, 2, geometry=ConvGeometry((3, 3), same=True))
    assert Site.from_dict(json.loads(json.dumps(same.to_dict()))) == same
