"""The compiled column kernels answer what the torch ones do, at every level."""

from __future__ import annotations

import pytest
import torch

from halut.errors import HalutError
from halut.ops import ConvGeometry, conv_taps, cpu, forced

pytestmark = pytest.mark.skipif(not cpu.cpu_capabilities(), reason="no compiled kernels")

CASES = [  # B, C, H, W, geometry
    (2, 3, 9, 8, ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))),
    (2, 5, 9, 8, ConvGeometry((3, 3), (2, 2), (0, 1, 0, 1))),
    (3, 4, 6, 7, ConvGeometry((1, 1))),
    (3, 4, 6, 7, ConvGeometry((1, 1), (2, 2))),
    (2, 3, 1, 1, ConvGeometry((1, 1), (2, 2))),
    (1, 3, 9, 8, ConvGeometry((2, 3), (1, 2), (2, 0, 1, 3), (2, 1))),
    (2, 2, 3, 30, ConvGeometry((5, 7), (3, 1), (3, 3, 2, 2))),
    (2, 1, 2, 2, ConvGeometry((3, 3), (1, 1), (9, 9, 5, 5), (1, 2))),
    (0, 3, 9, 8, ConvGeometry((3, 3))),
]


def layouts(x):
    """x contiguous, channels_last, and cut out of something larger."""
    wide = torch.zeros(x.shape[0], 2 * x.shape[1], x.shape[2] + 1, 2 * x.shape[3])
    cut = wide[:, ::2, 1:, ::2]
    return x, x.contiguous(memory_format=torch.channels_last), cut.copy_(x)


def both(x, taps, g, grad):
    """Columns and the map's gradient."""
    x = x.detach().requires_grad_()
    y = conv_taps(x, taps, g.kernel_size, g.stride, g.padding, g.dilation)
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("level", cpu.cpu_capabilities())
def test_columns_equal_torch(case, level):
    B, C, H, W, g = case
    torch.manual_seed(0)
    OH, OW = g.output_size(H, W)
    taps = torch.randint(0, C * g.kernel_size[0] * g.kernel_size[1], (13,))
    grad = torch.randn(B * OH * OW, 13)
    for x in layouts(torch.randn(B, C, H, W)):
        with forced("torch"):
            y, dx = both(x, taps, g, grad)
        with cpu.use_cpu_capability(level):
            ours, ours_dx = both(x, taps, g, grad)
            strided = both(x, taps, g, grad.t().contiguous().t())[1]
        assert torch.equal(ours, y)
        assert ours.stride() == y.stride()
        torch.testing.assert_close(ours_dx, dx)
        assert torch.equal(strided, ours_dx)


def test_threads_do_not_change_the_gradient(set_threads):
    torch.manual_seed(0)
    x, taps, grad = torch.randn(2, 3, 12, 12), torch.randint(0, 27, (40,)), torch.randn(288, 40)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results.append(both(x, taps, CASES[0][-1], grad))
    assert all(torch.equal(a[1], results[0][1]) for a in results)


def test_a_tap_that_is_no_column_is_refused():
    x = torch.zeros(1, 2, 4, 4)
    for tap in (-1, 18):
        with pytest.raises(HalutError, match=r"columns must be in 0\.\.17"):
            conv_taps(x, torch.tensor([0, tap]), (3, 3))
