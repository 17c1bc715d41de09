"""Every estimator under DistributedDataParallel: all parameters take part in every step."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from halut.encoders import encoders
from tests.layers.lut_oracle import LAYERS, inputs_of, make

ESTIMATORS = [(name, one) for name in encoders for one in encoders[name].estimators]


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("ridge", [None, 1.0])
@pytest.mark.parametrize("parameterization", ["free", "derived"])
@pytest.mark.parametrize(("encoder", "estimator"), ESTIMATORS)
def test_gradients_are_those_of_the_layer_alone(
    process_group, encoder, estimator, parameterization, ridge
):
    options = {"estimator": estimator, "parameterization": parameterization, "ridge": ridge}
    layer, _ = make("3x3", encoder, **options)
    x = inputs_of(LAYERS["3x3"][1])
    layer(x).square().sum().backward()
    expected = {name: p.grad for name, p in layer.named_parameters()}
    layer.zero_grad()
    model = DistributedDataParallel(layer)
    for _ in range(2):  # the second one finds out what the first has left
        layer.zero_grad()
        model(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        if expected[name] is None:
            assert parameter.grad is None or not parameter.grad.any()
        else:
            torch.testing.assert_close(parameter.grad, expected[name])
