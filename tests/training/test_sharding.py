"""What is sharded and how; every operator steps in shards as it does whole."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.distributed as dist
import torchvision
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from halut.replace import swap
from halut.replace.operator_registry import operator_names
from halut.replace.param_groups import by_role
from halut.replace.policy import Rule, resolve
from halut.sites.find import find_sites
from halut.training.parallel import sharding
from tests.training.learned_layers import with_learned


@pytest.fixture
def mesh():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def names(network: nn.Module) -> list[str]:
    known = {module: name for name, module in network.named_modules()}
    return [known[module] for module in sharding.units(network)]


@pytest.mark.parametrize(
    ("shape", "ranks", "dim"),
    [
        ((64, 3, 3, 3), 8, 0),
        ((1, 32, 16, 64), 8, 1),  # a table's first dimension is its groups
        ((1, 5, 16, 7), 8, 2),
        ((10, 33), 4, 0),  # in parts of 3, 3, 3 and 1
        ((3, 33), 4, None),
        ((), 2, None),
        ((512,), 2, None),
        ((1, 1, 384), 2, None),
        ((1, 197, 384), 2, 2),
    ],
)
def test_a_parameter_is_parted_along(shape, ranks, dim):
    expected = None if dim is None else Shard(dim)
    assert sharding.placement(torch.empty(shape, device="meta"), ranks) == expected


def test_blocks_are_gathered_one_by_one():
    with torch.device("meta"):
        vit = timm.create_model("vit_small_patch16_224")
        inner = torchvision.models.vit_b_16()
        resnet = torchvision.models.resnet50()
    assert names(vit) == ["patch_embed", *(f"blocks.{i}" for i in range(12)), "head"]
    assert [n for n in names(inner) if n.startswith("encoder")] == [
        f"encoder.layers.encoder_layer_{i}" for i in range(12)
    ]
    assert names(resnet)[-4:] == ["layer4.0", "layer4.1", "layer4.2", "fc"]
    wrapped = nn.Module()
    wrapped.backbone, wrapped.head = resnet, nn.Linear(1000, 10, device="meta")
    assert names(wrapped)[-2:] == ["backbone.layer4.2", "backbone.fc"]


def test_what_two_units_share_stays_whole():
    network = nn.ModuleDict({name: nn.Linear(8, 8) for name in "abc"})
    network["b"].weight = network["a"].weight
    blocks = sharding.units(network)
    assert blocks == list(network.values())
    remaining = sharding.unsharded_parameters(network, blocks, 2)
    assert remaining == {network["a"].weight, *(one.bias for one in network.values())}


def trainable(operator: str) -> nn.Module:
    """Two layers of an operator behind each other, calibrated."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    images = torch.rand(16, 2, 5, 5)
    sites, _ = find_sites(network, images[:1])
    plan = resolve(sites, [Rule(operator=operator)], operator, {})
    return with_learned(network, plan, images, rows=200, seed=1).train()


def step(network: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    network(x).square().mean().backward()


@pytest.mark.parametrize("operator", operator_names())
def test_every_operator_steps_in_shards_as_it_does_whole(operator, mesh):
    expected = trainable(operator)
    actual, sharded = copy.deepcopy(expected), copy.deepcopy(expected)
    sharding.shard(sharded, mesh)
    assert any(isinstance(p, DTensor) for p in sharded.parameters())
    ours, theirs = (  # eps: the direction of a gradient that is rounding alone is no one's
        torch.optim.AdamW(
            [p for ps in by_role(net).values() for p in ps], lr=0.01, eps=1e-5, foreach=False
        )
        for net in (sharded, expected)
    )
    for seed in range(3):
        x = torch.rand(4, 2, 5, 5, generator=torch.Generator().manual_seed(seed))
        for network, optimizer in ((sharded, ours), (expected, theirs)):
            step(network, optimizer, x)
        sharding.average(sharded.parameters())
        norm = sharding.clip_norm(sharded.parameters(), 0.05)
        torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(expected.parameters(), 0.05))
        assert norm > 0.05
        for network, optimizer in ((sharded, ours), (expected, theirs)):
            optimizer.step()
            for _, layer in swap.replaced_layers(network):
                layer.after_step((seed + 1) / 3)
    sharding.gather(sharded, actual)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(
            actual.state_dict()[name],
            tensor,
            rtol=1e-5,
            atol=1e-6,
            msg=lambda text, name=name: f"{name}: {text}",
        )
