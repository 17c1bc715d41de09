"""No operator builds a tensor of N*C*M elements, and its temporaries stay in the workspace."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from halut.ops import nearest_matmul, tree_matmul
from halut.ops.core import checks
from halut.ops.lookup.accumulate import accumulate_torch, scatter_add_torch
from halut.ops.nearest.encode import nearest_encode_torch
from halut.ops.nearest.gradient import nearest_gradient_torch
from halut.ops.tree.encode import tree_encode_torch
from halut.ops.tree.gradient import tree_gradient_torch
from tests.oracles.lookup import accumulate_reference

N, C, K, M, V = 1024, 32, 16, 256, 9


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.untyped_storage().size() // 4)
        return out


def largest(function, *arguments):
    with LargestTensor() as mode:
        function(*arguments)
    return mode.elements


def test_the_largest_tensor_is_an_input_an_output_or_a_chunk():
    torch.manual_seed(0)
    codes = torch.randint(0, K, (N, C), dtype=torch.uint8)
    lut, grad, tau = torch.randn(1, C, K, M), torch.randn(N, M), torch.ones(())
    taps, thresholds = torch.randn(N, C * 4), torch.randn(C, K - 1)
    every = torch.arange(C * 4)
    x, prototypes = torch.randn(N, C * V), torch.randn(C, K, V)
    assert largest(accumulate_reference, codes, lut) >= N * C * M  # the meter sees it
    bound = max(N * M, N * C * V, C * K * M, checks.workspace(lut.device) // 4)
    assert bound < N * C * M / 1.9
    calls = [
        (accumulate_torch, codes, lut),
        (scatter_add_torch, codes, grad, 1, K),
        (tree_encode_torch, taps, every, thresholds, None),
        (tree_gradient_torch, grad, taps, every, thresholds, lut, tau, 1.0, None),
        (nearest_encode_torch, x, prototypes, "l2", 1),
        (nearest_gradient_torch, grad, x, prototypes, lut, tau, "l2", 1.0),
    ]
    for function, *arguments in calls:
        assert largest(function, *arguments) <= bound, function.__name__


def test_chunks_follow_the_workspace(monkeypatch):
    lut, grad, tau = torch.randn(1, C, K, 8), torch.randn(N, 8), torch.ones(())
    taps, thresholds = torch.randn(N, C * 4), torch.randn(C, K - 1)
    every = torch.arange(C * 4)
    x, prototypes = torch.randn(N, C * V), torch.randn(C, K, V)
    monkeypatch.setitem(checks.WORKSPACE, "cpu", 1 << 20)
    bound = max(N * C * V, (1 << 20) // 4)
    assert bound < N * C * K
    assert largest(tree_gradient_torch, grad, taps, every, thresholds, lut, tau, 1.0, None) <= bound
    assert largest(nearest_gradient_torch, grad, x, prototypes, lut, tau, "l2", 1.0) <= bound


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's peak memory")
@pytest.mark.parametrize("kind", ["tree", "nearest"])
def test_peak_memory_of_a_step(kind):
    """Forward and backward at N*C*M = 2 GiB of float32 add less than an eighth of it."""
    n, c, m = 4096, 256, 512
    lut = torch.randn(1, c, K, m, requires_grad=True)
    if kind == "tree":
        product, inputs = tree_product, torch.randn(n, c * 4, requires_grad=True)
        parameter = torch.randn(c, K - 1, requires_grad=True)
    else:
        product, inputs = nearest_matmul, torch.randn(n, c * 4, requires_grad=True)
        parameter = torch.randn(c, K, 4, requires_grad=True)
    tau = torch.ones((), requires_grad=True)
    # A first, small step loads the libraries' own code and buffers, which are not ours to count.
    product(inputs[:8], parameter, lut, lut.detach(), tau).sum().backward()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    product(inputs, parameter, lut, lut.detach(), tau).sum().backward()
    assert peak_bytes() - before < n * c * m * 4 / 8
    assert lut.grad is not None


def tree_product(x, *arguments):
    return tree_matmul(x, torch.arange(x.shape[1]), *arguments)


def peak_bytes():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024
