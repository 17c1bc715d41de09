"""Networks written by hand, each with something that a rewriting of graphs may get wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn
from torch.utils._pytree import tree_leaves

from halut.inference import PackedConv2d, prepare
from tests.inference.networks import gap, replaced


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c1, self.c2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c3, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)
        self.b1, self.b2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.act, self.r = BatchNormAct2d(8, act_layer=nn.SiLU), nn.ReLU(inplace=True)
        self.map = nn.Parameter(torch.randn(1, 8, 8, 8))
        for norm in (self.b1, self.b2, self.act):
            norm.running_mean.uniform_(0.2, 1)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, -1, 1)
            nn.init.normal_(norm.bias)


def relu_before_norm(s, x):
    return s.fc(s.b2(s.c2(F.relu(s.b1(F.relu(s.c1(x)))))).mean((2, 3)))


def norm_that_acts(s, x):
    return s.act(s.c2(s.r(s.b1(s.c1(x)))))


def twice_itself(s, x):
    y = s.c1(x)
    return y + y


def broadcast_map(s, x):
    return F.relu(s.map + s.c1(x)) + s.c2(F.relu(s.c1(x)))


def broadcast_mean(s, x):
    return s.c1(x) + x.mean((0, 1), keepdim=True).expand(1, 8, 8, 8)


def sum_in_place(s, x):
    y = s.b1(s.c1(x))
    z = y
    y += s.c2(y)
    return z * 2, torch.add(s.c3(y), y)


def read_after_change(s, x):
    y = s.c1(x)
    a = s.c2(y)
    y.relu_()
    return a + s.c3(y)


def seen_through_a_view(s, x):
    y = s.b1(s.c1(x).contiguous())
    view = y.flatten(1)
    y += s.c2(y)
    return view


def gated(s, x):
    y = F.relu(s.b1(s.c1(x)))
    return s.b2(s.c2(y * torch.sigmoid(s.c3(y.mean((2, 3), keepdim=True)))))


def used_twice(s, x):
    return s.b1(s.c2(F.relu(s.c2(s.b1(s.c1(x))))))


def nested_answer(s, x):
    y = s.b1(s.c1(x))
    return y, [s.r(s.c2(y)), {"tokens": s.fc(y.flatten(2).transpose(1, 2))}]


def by_batch(s, x):
    y = s.b1(s.c1(x))
    return s.c2(y) if x.shape[0] > 1 else 2 * s.c2(y)


def behind_a_relu(s, x):
    y = s.b1(s.c1(x))
    return F.relu(s.c2(y)) + y


FORWARDS = [value for value in list(globals().values()) if getattr(value, "__code__", None)]
FORWARDS = [f for f in FORWARDS if f.__code__.co_varnames[:2] == ("s", "x")]


def network_of(forward):
    return type(forward.__name__, (Base,), {"forward": forward})().eval()


@pytest.mark.parametrize("operator", ["tree", "pq", "decision_tree"])
@pytest.mark.parametrize("forward", FORWARDS, ids=lambda f: f.__name__)
@torch.no_grad()
def test_answers_as_in_evaluation_mode(forward, operator):
    network, x = network_of(forward), torch.randn(24, 3, 8, 8)
    replaced(network, x, operator)
    batches = (x[:1], x[3:6], x[5:12], x[:3].contiguous(memory_format=torch.channels_last))
    for options in ({}, {"example": x[:1]}, {"example": x[:4]}, {"calibration": x}):
        if "calibration" in options and forward is by_batch:
            continue  # refused: torch.fx follows nothing of it
        prepared = prepare(network, **options)
        bound = 0.2 if "calibration" in options else 1e-5
        for batch in batches:
            ours, theirs = tree_leaves(prepared(batch.clone())), tree_leaves(network(batch.clone()))
            assert max(gap(a, b) for a, b in zip(ours, theirs, strict=True)) < bound


@torch.no_grad()
def test_hooks_stay_and_hold_off_folding():
    network, x = network_of(gated), torch.randn(8, 3, 8, 8)
    network.b1.register_forward_hook(lambda module, args, y: y + 1)
    replaced(network, x)
    network.c2.register_forward_hook(lambda module, args, y: 2 * y)
    prepared = prepare(network, x)
    assert gap(prepared(x), network(x)) < 1e-5
    assert isinstance(prepared.c2, PackedConv2d)


@torch.no_grad()
def test_a_wrong_step_is_left_out_by_name(monkeypatch):
    network, x = network_of(gated), torch.randn(8, 3, 8, 8)
    replaced(network, x)
    good = prepare(network, x)
    assert nn.BatchNorm2d not in {type(module) for module in good.modules()}

    def wrong(self, factor, shift):
        self.bias.add_(1)

    monkeypatch.setattr(PackedConv2d, "scale_and_shift", wrong)
    prepared = prepare(network, x)
    assert sum(type(module) is nn.BatchNorm2d for module in prepared.modules()) == 2
    assert gap(prepared(x), network(x)) < 1e-5
