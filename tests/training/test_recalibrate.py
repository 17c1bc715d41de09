"""Batch-norm recalibration: averages over the batches, and nothing else changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.models.build import build_model
from halut.training.recalibrate import recalibrate


class Two(nn.Module):
    """Two batch norms, the second behind the first, and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.drop = nn.BatchNorm1d(3, momentum=0.25), nn.Dropout(0.5)
        self.linear, self.bn2 = nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False)

    def forward(self, x):
        return self.bn2(self.linear(self.drop(self.bn1(x))))


def batches(count=5, rows=8):
    torch.manual_seed(0)
    return [3 * torch.randn(rows, 3) + torch.arange(3) * (i + 1) for i in range(count)]


def test_statistics_are_the_means_over_the_batches():
    network, given = Two(), batches()
    network.bn1.running_mean.fill_(100.0)  # of an earlier life
    assert recalibrate(network, [(x, None) for x in given]) == 5
    means = torch.stack([x.mean(0) for x in given])
    variances = torch.stack([x.var(0, unbiased=True) for x in given])
    torch.testing.assert_close(network.bn1.running_mean, means.mean(0))
    torch.testing.assert_close(network.bn1.running_var, variances.mean(0))


def test_a_norm_behind_another_sees_batch_statistics_in_front_and_no_dropout():
    network, given = Two(), batches()
    recalibrate(network, given)
    after = [
        network.linear(
            (x - x.mean(0))
            / (x.var(0, unbiased=False) + network.bn1.eps).sqrt()
            * network.bn1.weight
            + network.bn1.bias
        )
        for x in given
    ]
    wanted = torch.stack([y.mean(0) for y in after]).mean(0)
    torch.testing.assert_close(network.bn2.running_mean, wanted, atol=1e-5, rtol=1e-5)
    wanted = torch.stack([y.var(0, unbiased=True) for y in after]).mean(0)
    torch.testing.assert_close(network.bn2.running_var, wanted)


def test_modes_momentum_and_parameters_are_put_back():
    network = Two().train()
    network.drop.eval()
    parameters = {n: p.detach().clone() for n, p in network.named_parameters()}
    modes = {n: m.training for n, m in network.named_modules()}
    recalibrate(network, batches())
    assert {n: m.training for n, m in network.named_modules()} == modes
    assert (network.bn1.momentum, network.bn2.momentum) == (0.25, 0.1)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, parameters[name])
        assert parameter.grad is None


def test_they_are_put_back_after_a_failure():
    network = Two().eval()

    def failing():
        yield batches()[0]
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        recalibrate(network, failing())
    assert not network.bn1.training
    assert network.bn1.momentum == 0.25


def test_without_batch_norms_nothing_is_read():
    def unread():
        raise AssertionError("read")
        yield

    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    assert recalibrate(network, unread()) == 0
    untracked = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    assert recalibrate(untracked, unread()) == 0


def test_without_batches_the_statistics_stay():
    network = Two()
    network.bn1.running_mean.fill_(7.0)
    assert recalibrate(network, []) == 0
    assert network.bn1.running_mean.tolist() == [7.0, 7.0, 7.0]


def test_it_repairs_a_network_whose_activations_were_scaled():
    torch.manual_seed(0)
    network = build_model("resnet8", 10, 1, width=8)
    x = torch.randn(64, 1, 8, 8)
    recalibrate(network, [x])
    wanted = network.eval()(x)
    with torch.no_grad():
        network.stack1.conv1.weight.mul_(5.0)
    wrong = (network(x) - wanted).abs().mean()
    recalibrate(network, [x])
    # A batch norm's epsilon is all that still tells the scales apart.
    assert (network(x) - wanted).abs().mean() < 0.01 * wrong
