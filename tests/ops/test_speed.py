"""A training step of the tree product is well ahead of the one-hot einsum of the same maths."""

import time

import pytest
import torch
import torch.nn.functional as F

from halut.ops import tree_matmul
from tests.oracles.tree import tree_assign_reference, tree_encode_reference


def one_hot_product(taps, thresholds, lut, tau):
    """The baseline: straight-through one-hot codes times the table, all by autograd."""
    soft = tree_assign_reference(taps, thresholds, tau)
    hard = F.one_hot(tree_encode_reference(taps, thresholds).long(), soft.shape[-1])
    assign = soft + (hard - soft).detach()
    return torch.einsum("nck,ckm->nm", assign, lut[0])


def milliseconds(step):
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e3


@pytest.mark.slow
def test_twice_as_fast_as_the_one_hot_einsum(set_threads):
    set_threads(1)  # several on a busy machine wait for each other: that would measure neighbors
    torch.manual_seed(0)
    N, C, K, M = 2048, 64, 16, 128
    taps = torch.randn(N, C * 4, requires_grad=True)
    thresholds = torch.randn(C, K - 1, requires_grad=True)
    lut, tau = torch.randn(1, C, K, M, requires_grad=True), torch.ones((), requires_grad=True)
    grad, table, every = torch.randn(N, M), lut.detach(), torch.arange(C * 4)
    steps = {
        "ours": lambda: tree_matmul(taps, every, thresholds, lut, table, tau).backward(grad),
        "einsum": lambda: one_hot_product(taps, thresholds, lut, tau).backward(grad),
    }
    times = {name: [] for name in steps}
    for _ in range(13):  # interleaved, so that a busy machine slows both
        for name, step in steps.items():
            times[name].append(milliseconds(step))
    median = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    assert median["einsum"] > 2 * median["ours"], median
