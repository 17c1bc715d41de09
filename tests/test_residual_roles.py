"""The order inner_first, and what tells it: which layers write into a residual stream."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from halut.errors import HalutError
from halut.models import models
from halut.replace.policy import resolve, simple_rules
from halut.replace.schedule import orders
from halut.replace.swap import apply
from halut.sites.find import find_sites
from halut.sites.residual import residual_roles


def order_of(network, shape, **short):
    """The order of the sites that a policy with these short forms replaces."""
    example = torch.zeros(1, *shape)
    sites, _ = find_sites(network, example)
    plan = resolve(sites, simple_rules(sites, **short), "exact", {})
    roles = residual_roles(network, example, [site.name for site in sites])
    groups = orders["inner_first"](plan.replaced, {"residual": roles})
    assert all(len(group) == 1 for group in groups)
    return [name for group in groups for name in group]


def test_resnet8():
    network = models["resnet8"](num_classes=10, width=4)
    assert order_of(network, (3, 32, 32), keep_first=True, keep_last=True) == [
        "stack3.conv1", "stack2.conv1", "stack1.conv1",
        "stack3.conv2", "stack2.conv2", "stack1.conv2",
        "stack3.shortcut", "stack2.shortcut",
    ]  # fmt: skip
    whole = order_of(network, (3, 32, 32), keep_first=False, keep_last=False)
    assert whole[:5] == ["fc", "stack3.conv1", "stack2.conv1", "stack1.conv1", "conv1"]


def test_resnet20_has_shortcuts_without_weights():
    network = models["resnet20"](num_classes=10, width=4)
    blocks = [f"layer{layer}.{block}" for layer in (3, 2, 1) for block in (2, 1, 0)]
    assert order_of(network, (3, 32, 32), keep_first=True, keep_last=True) == [
        f"{block}.{conv}" for conv in ("conv1", "conv2") for block in blocks
    ]


def test_resnet9_has_convolutions_outside_of_blocks():
    network = models["resnet9"](num_classes=10, width=4)
    assert order_of(network, (3, 32, 32), keep_first=False, keep_last=True) == [
        f"features.{name}.conv"
        for name in (
            "res2.conv1", "conv4", "conv3", "res1.conv1", "conv2", "conv1",
            "res2.conv2", "res1.conv2",
        )
    ]  # fmt: skip


def test_ds_cnn_goes_back_to_front():
    network = models["ds_cnn"](num_classes=12, width=4, depth=2)
    assert order_of(network, (1, 49, 10), keep_depthwise=False) == [
        "blocks.1.pointwise", "blocks.1.depthwise", "blocks.0.pointwise", "blocks.0.depthwise",
    ]  # fmt: skip


def test_torch_vision_and_timm_have_one_order_of_resnet18():
    torchvision = pytest.importorskip("torchvision")
    blocks = [f"layer{layer}.{block}" for layer in (4, 3, 2, 1) for block in (1, 0)]
    expected = [f"{block}.{conv}" for conv in ("conv1", "conv2") for block in blocks]
    expected += [f"layer{layer}.0.downsample.0" for layer in (4, 3, 2)]
    for network in (torchvision.models.resnet18(), timm.create_model("resnet18")):
        assert order_of(network, (3, 64, 64), keep_first=True, keep_last=True) == expected


def test_the_last_of_three_convolutions_writes_in_resnet50():
    network = timm.create_model("resnet50")
    counts = {4: 3, 3: 6, 2: 4, 1: 3}
    blocks = [f"layer{layer}.{i}" for layer, n in counts.items() for i in reversed(range(n))]
    assert order_of(network, (3, 32, 32), keep_first=True, keep_last=True) == [
        *(f"{block}.{conv}" for block in blocks for conv in ("conv2", "conv1")),
        *(f"{block}.conv3" for block in blocks),
        *(f"layer{layer}.0.downsample.0" for layer in (4, 3, 2, 1)),
    ]


def test_transformers_write_by_proj_and_fc2():
    network = timm.create_model("deit_tiny_patch16_224", img_size=32)
    blocks = [f"blocks.{i}" for i in reversed(range(12))]
    assert order_of(network, (3, 32, 32), keep_first=True, keep_last=True) == [
        *(f"{block}.{name}" for block in blocks for name in ("mlp.fc1", "attn.qkv")),
        *(f"{block}.{name}" for block in blocks for name in ("mlp.fc2", "attn.proj")),
    ]


class Pair(nn.Module):
    """Two branches of one input, of which the second may be hidden in place."""

    def __init__(self, *, in_place, size=1):
        super().__init__()
        self.in_place = in_place
        self.stem, self.first = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3, padding=1)
        self.last = nn.Conv2d(2, 2, 3, padding=1)
        self.skip = nn.Conv2d(2, 2, size, padding=size // 2)

    def forward(self, x):
        x = self.stem(x)
        y = self.last(self.first(x).relu_()).neg()
        shorter = self.skip(x) * 2
        if self.in_place:
            y += shorter
            return y
        return y + shorter


@pytest.mark.parametrize("in_place", [False, True])
def test_a_shortcut_is_the_shorter_branch_whatever_it_is_called(in_place):
    network, x = Pair(in_place=in_place), torch.ones(1, 2, 4, 4)
    names = ["stem", "first", "last", "skip"]
    expected = dict(zip(names, ["inner", "inner", "writer", "shortcut"], strict=True))
    assert residual_roles(network, x, names) == expected
    apply(network, resolve(find_sites(network, x)[0], simple_rules([]), "exact", {}))
    assert residual_roles(network, x, names) == expected


def test_a_shortcut_of_another_size_is_a_writer():
    names = ["last", "skip"]
    roles = residual_roles(Pair(in_place=False, size=3), torch.ones(1, 2, 4, 4), names)
    assert roles == dict.fromkeys(names, "writer")


def test_layers_that_are_no_sites_end_a_branch_too():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = nn.Linear(4, 4), nn.Conv1d(4, 4, 1)

        def forward(self, x):
            return x + self.last(self.inner(x)[:, :, None])[:, :, 0]

    assert residual_roles(
        nn.Sequential(nn.Linear(4, 4), Mixed()), torch.ones(1, 4), ["1.inner"]
    ) == {"1.inner": "inner"}


def test_the_network_keeps_its_modes_and_forwards():
    network = models["resnet8"](num_classes=10, width=4).train()
    before = network.bn1.running_mean.clone()
    residual_roles(network, torch.ones(1, 3, 32, 32), ["conv1"])
    assert all(module.training for module in network.modules())
    assert not any("forward" in vars(module) for module in network.modules())
    assert torch.equal(network.bn1.running_mean, before)


def test_what_cannot_be_followed_is_one_line():
    with pytest.raises(HalutError, match=r"the network's sums cannot be followed: RuntimeError"):
        residual_roles(nn.Linear(3, 2), torch.ones(1, 4), [""])


def test_the_order_needs_the_roles():
    with pytest.raises(HalutError, match="schedule inner_first needs the roles"):
        orders["inner_first"]([], {})
