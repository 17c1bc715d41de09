"""The generic relaxed product equals the fused ones, and any differentiable assignment works."""

import pytest
import torch
from torch import nn

from halut.encoders.base import Encoder, relaxed_matmul
from halut.ops import nearest_encode, nearest_matmul, tree_encode, tree_matmul
from halut.ops.blocks import Blocks
from halut.ops.core import checks
from tests.oracles.nearest import nearest_assign_reference
from tests.oracles.tree import tree_assign_reference


class Tree(Encoder):
    """A tree whose taps are its first columns."""

    def __init__(self, blocks, K):
        super().__init__(blocks, K)
        self.thresholds = nn.Parameter(torch.randn(blocks.total, K - 1, dtype=torch.float64))

    def encode(self, inputs):
        return tree_encode(inputs, torch.arange(inputs.shape[1]), self.thresholds)

    def assign(self, inputs, tau):
        return tree_assign_reference(inputs, self.thresholds, tau)


class Nearest(Encoder):
    """Prototypes under the squared distance."""

    def __init__(self, blocks, K):
        super().__init__(blocks, K)
        self.prototypes = nn.Parameter(torch.randn(blocks.total, K, blocks.V, dtype=torch.float64))

    def encode(self, inputs):
        return nearest_encode(inputs, self.prototypes, "l2", self.blocks.groups)

    def assign(self, inputs, tau):
        return nearest_assign_reference(inputs, self.prototypes, tau, "l2", self.blocks.groups)[1]


def gradients(product, parameter, inputs, lut, table, tau, grad):
    leaves = [value.clone().requires_grad_() for value in (inputs, lut, tau)]
    y = product(leaves[0], leaves[1], table, leaves[2])
    return [y.detach(), *torch.autograd.grad(y, [*leaves, parameter], grad)]


def tables(G, C, K, M):
    lut = torch.randn(G, C, K, M, dtype=torch.float64)
    return lut, lut + 0.1 * torch.randn_like(lut)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("kind", ["tree", "nearest"])
def test_equal_to_the_fused_operators(kind, small, monkeypatch):
    torch.manual_seed(0)
    if small:  # several chunks
        monkeypatch.setitem(checks.WORKSPACE, "cpu", 50_000)
    N, G, C, K, M = 60, 2, 3, 8, 4
    lut, table = tables(G, C, K, M)
    grad = torch.randn(N, G * M, dtype=torch.float64)
    tau = torch.rand(G * C, dtype=torch.float64) + 0.5
    if kind == "tree":
        encoder: Encoder = Tree(Blocks(6, C, G), K)
        inputs = torch.randn(N, G * C * 3, dtype=torch.float64)
        parameter = encoder.thresholds

        def fused(x, lut, table, tau):
            return tree_matmul(x, torch.arange(x.shape[1]), parameter, lut, table, tau, 0.7)
    else:
        encoder = Nearest(Blocks(6, C, G), K)
        inputs = torch.randn(N, G * 6, dtype=torch.float64)
        parameter = encoder.prototypes

        def fused(x, lut, table, tau):
            return nearest_matmul(x, parameter, lut, table, tau, "l2", G, 0.7)

    def generic(x, lut, table, tau):
        return relaxed_matmul(encoder, x, lut, table, tau, 0.7)

    arguments = (parameter, inputs, lut, table, tau, grad)
    for ours, theirs in zip(
        gradients(generic, *arguments), gradients(fused, *arguments), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_quantized_tables_leave_the_encoders_gradient_unchanged():
    torch.manual_seed(0)
    encoder = Tree(Blocks(6, 3), 8)
    lut, table = tables(1, 3, 8, 4)
    inputs, grad = torch.randn(20, 9).double(), torch.randn(20, 4).double()
    tau = torch.ones((), dtype=torch.float64)

    def run(x, lut, table, tau):
        return relaxed_matmul(encoder, x, lut, table, tau)

    exact = gradients(run, encoder.thresholds, inputs, lut, lut, tau, grad)
    quantized = gradients(run, encoder.thresholds, inputs, lut, table, tau, grad)
    assert not torch.equal(exact[0], quantized[0])
    for ours, theirs in zip(exact[1:], quantized[1:], strict=True):
        assert torch.equal(ours, theirs)


def test_frozen_encoders_no_rows_and_no_relaxation():
    encoder = Nearest(Blocks(6, 3), 8)
    encoder.requires_grad_(False)
    lut, table = tables(1, 3, 8, 4)
    tau = torch.ones((), dtype=torch.float64)
    for N, ste_mix in ((0, 1.0), (5, 0.0), (5, 1.0)):
        lut = lut.detach().requires_grad_()
        x = torch.randn(N, 6, dtype=torch.float64, requires_grad=True)
        relaxed_matmul(encoder, x, lut, table, tau, ste_mix).sum().backward()
        assert encoder.prototypes.grad is None
        assert (x.grad is None) == (ste_mix == 0)
        assert bool(lut.grad.any()) == (N > 0)
