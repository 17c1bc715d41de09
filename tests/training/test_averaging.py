"""Averaged weights: what moves is averaged, what stands still stays to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from halut.training.lightning.averaging import AveragedWeights


class State(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("dims", torch.arange(600))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("exponent", torch.linspace(-127, 127, 255))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.9, 0.9999])
def test_only_what_moves_is_averaged(decay):
    model = State()
    average = AveragedModel(model, use_buffers=True, **AveragedWeights(decay)._kwargs)
    expected = model.weight.detach().clone()
    for step in range(50):
        with torch.no_grad():
            model.weight += 1.0
        average.update_parameters(model)
        now = model.weight.detach()
        expected = now.clone() if step == 0 else decay * expected + (1 - decay) * now
    torch.testing.assert_close(average.module.weight.detach(), expected)
    for name in ("dims", "mask", "exponent"):
        assert torch.equal(getattr(average.module, name), getattr(model, name)), name


def test_integers_follow_the_model():
    model = State()
    average = AveragedModel(model, use_buffers=True, **AveragedWeights(0.99)._kwargs)
    for _ in range(3):
        model.dims += 5
        average.update_parameters(model)
    assert torch.equal(average.module.dims, model.dims)
