"""A network with replaced layers is copied and pickled as any module is."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import halut
from halut.models.build import build_model
from halut.sites.attention import expose_attention

TABLES = ("tree", "pq", "decision_tree")


def network(operator: str) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)
    )
    halut.replace_(net, calibration=[images()], rules=[halut.Rule(operator=operator)])
    return net.eval()


def images() -> torch.Tensor:
    return torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def saved(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": saved,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("operator", [*TABLES, "integer", "lqnet"])
def test_a_copy_answers_the_same_and_trains_by_itself(operator, way):
    net, copied = network(operator), COPIES[way]
    answer, other = net(images()), copied(net)
    assert torch.equal(other(images()), answer)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert before.keys() == other.state_dict().keys()
    other.train()(images()).square().mean().backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    assert not torch.equal(other.eval()(images()), answer)
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_exposed_attention_is_copied(copied):
    torch.manual_seed(0)
    net = build_model("tiny_vit", 10, 1, patch=2, dim=16, depth=1, heads=2).eval()
    expose_attention(net)
    other = copied(net)
    assert torch.equal(other(images()), net(images()))
    assert expose_attention(other) == expose_attention(net)
    assert type(other.blocks[0].attn) is type(net.blocks[0].attn)
