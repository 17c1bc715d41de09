"""Batch-norm recalibration: averages over the batches, and nothing else changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.errors import HalutError
from halut.models.build import build_model
from halut.replace.recalibrate import check_norms, recalibrate


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
    network, inputs = Two(), batches()
    network.bn1.running_mean.fill_(100.0)  # of an earlier life
    assert recalibrate(network, [(x, None) for x in inputs]) == 5
    means = torch.stack([x.mean(0) for x in inputs])
    variances = torch.stack([x.var(0, unbiased=True) for x in inputs])
    torch.testing.assert_close(network.bn1.running_mean, means.mean(0))
    torch.testing.assert_close(network.bn1.running_var, variances.mean(0))


def test_a_norm_behind_another_sees_batch_statistics_in_front_and_no_dropout():
    network, inputs = Two(), batches()
    recalibrate(network, inputs)
    after = [
        network.linear(
            (x - x.mean(0))
            / (x.var(0, unbiased=False) + network.bn1.eps).sqrt()
            * network.bn1.weight
            + network.bn1.bias
        )
        for x in inputs
    ]
    expected = torch.stack([y.mean(0) for y in after]).mean(0)
    torch.testing.assert_close(network.bn2.running_mean, expected, atol=1e-5, rtol=1e-5)
    expected = torch.stack([y.var(0, unbiased=True) for y in after]).mean(0)
    torch.testing.assert_close(network.bn2.running_var, expected)


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
    expected = network.eval()(x)
    with torch.no_grad():
        network.stack1.conv1.weight.mul_(5.0)
    wrong = (network(x) - expected).abs().mean()
    recalibrate(network, [x])
    # A batch norm's epsilon is all that still tells the scales apart.
    assert (network(x) - expected).abs().mean() < 0.01 * wrong


def test_a_single_sample_joins_the_next_batch_or_is_left_out():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3))
    x = torch.randn(7, 3)
    parts = [x[:1], x[1:3], x[3:6], x[6:]]
    assert recalibrate(network, parts) == 2
    expected = torch.stack([x[:3].mean(0), x[3:6].mean(0)]).mean(0)
    assert torch.allclose(network[1].running_mean, expected, atol=1e-6)
    assert recalibrate(network, [x[:1]]) == 0
    assert torch.allclose(network[1].running_mean, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "size", "share", "name"),
    [
        (nn.BatchNorm2d, 1, 1, "1"),
        (nn.BatchNorm2d, 1, 2, None),
        (nn.BatchNorm2d, 2, 1, None),
        (lambda n: nn.InstanceNorm2d(n, track_running_stats=True), 1, 8, "1"),
    ],
)
def test_norms_with_one_value_per_channel_are_named(norm, size, share, name):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), norm(4))
    example = torch.zeros(1, 3, size, size)
    network.train()
    if name is None:
        check_norms(network, example, share)
        network(example.expand(share, -1, -1, -1))
        return
    with pytest.raises(HalutError, match=f"^{name}: a norm sees one value per channel"):
        check_norms(network, example, share)
    with pytest.raises(ValueError, match="more than 1"):
        network(example.expand(share, -1, -1, -1))
