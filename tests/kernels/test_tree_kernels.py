"""The compiled tree kernels answer what the references do: every level, dtype, depth and layout."""

from __future__ import annotations

import pytest
import torch

from halut.ops import ConvGeometry, columns_of, cpu, forced, tree_encode, tree_matmul
from tests.oracles.tree import tree_encode_reference

pytestmark = pytest.mark.skipif(not cpu.cpu_capabilities(), reason="no compiled kernels")

SHAPES = [  # B, Cin, H, W, geometry, G, C, K, M
    (2, 4, 9, 7, ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1)), 1, 4, 16, 20),
    (2, 4, 9, 7, ConvGeometry((3, 3), (2, 2), (0, 1, 0, 1)), 2, 3, 8, 5),
    (3, 6, 5, 6, ConvGeometry((1, 1)), 1, 3, 256, 3),
    (3, 6, 5, 6, ConvGeometry((2, 3), (1, 2), (2, 0, 1, 3), (2, 1)), 3, 1, 2, 17),
    (1, 1, 40, 31, ConvGeometry((5, 5), (1, 1), (2, 2, 2, 2)), 1, 1, 32, 1),
    (0, 3, 5, 5, ConvGeometry((3, 3)), 1, 2, 4, 3),
    (300, 12, 0, 0, None, 1, 5, 64, 33),
    (1, 7, 0, 0, None, 1, 1, 128, 40),
]


def draw(shape, dtype=torch.float32):
    """x, taps, thresholds, lut, table, tau, and an output gradient."""
    B, Cin, H, W, geometry, G, C, K, M = shape
    torch.manual_seed(B + Cin + K)
    depth = K.bit_length() - 1
    if geometry is None:
        x, N, window = torch.randn(B, Cin), B, 1
    else:
        OH, OW = geometry.output_size(H, W)
        x, N, window = torch.randn(B, Cin, H, W), B * OH * OW, torch.Size(geometry.kernel_size)
        window = window.numel()
    if dtype == torch.int8:
        x = x * 20
    lut = torch.randn(G, C, K, M)
    return (
        x.to(dtype),
        # Blocks in order, as encoders have them, so that codebooks may run side by side.
        torch.randint(0, Cin * window, (G * C * depth,)).sort().values,
        torch.round(torch.randn(G * C, K - 1) * (20 if dtype == torch.int8 else 0.7), decimals=1),
        lut,
        lut + 0.1 * torch.randn_like(lut),
        torch.rand(G * C) + 0.3,
        torch.randn(N, G * M),
    )


def layouts(x):
    """x as it is, transposed or channels_last, and cut out of something larger."""
    wide = torch.zeros(*(2 * size for size in x.shape), dtype=x.dtype)
    cut = wide[tuple(slice(None, None, 2) for _ in x.shape)].copy_(x)
    if x.ndim == 2:
        return x, x.t().contiguous().t(), cut
    return x, x.contiguous(memory_format=torch.channels_last), cut


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", cpu.cpu_capabilities())
def test_codes_equal_the_reference(shape, dtype, level):
    x, taps, thresholds, *_ = draw(shape, dtype)
    x.view(-1)[::17] = 0 if dtype == torch.int8 else torch.nan
    with forced("torch"):
        codes = tree_encode(x, taps, thresholds, shape[4])
    if dtype == torch.float32:
        columns = columns_of(x, taps, shape[4])
        assert torch.equal(codes, tree_encode_reference(columns, thresholds))
    with cpu.use_cpu_capability(level), forced("cpu"):
        for laid in layouts(x):
            assert torch.equal(tree_encode(laid, taps, thresholds, shape[4]), codes)


def gradients(arguments, geometry, ste_mix=1.0, flips=False):
    """Gradients of x, thresholds, lut and tau."""
    x, taps, thresholds, lut, table, tau, grad = arguments
    leaves = [value.detach().requires_grad_() for value in (x, thresholds, lut, tau)]
    y = tree_matmul(leaves[0], taps, *leaves[1:3], table, leaves[3], ste_mix, geometry, flips)
    return torch.autograd.grad(y, leaves, grad)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", cpu.cpu_capabilities())
@pytest.mark.parametrize("flips", [False, True])
def test_gradients_equal_torch_in_double(shape, level, flips):
    arguments = draw(shape)
    wide = [v.double() if v.is_floating_point() else v for v in arguments]
    expected = gradients(wide, shape[4], 0.7, flips)
    with cpu.use_cpu_capability(level):
        for x in layouts(arguments[0]):
            actual = gradients((x, *arguments[1:]), shape[4], 0.7, flips)
            for ours, reference in zip(actual, expected, strict=True):
                size = float(reference.abs().max()) if reference.numel() else 1.0
                torch.testing.assert_close(ours.double(), reference, rtol=2e-5, atol=2e-6 * size)


def test_taps_in_any_order_and_a_shared_temperature():
    x, taps, thresholds, lut, table, _, grad = draw(SHAPES[0])
    order = torch.randperm(len(taps))
    arguments = x, taps[order], thresholds, lut, table, torch.tensor(0.6), grad
    actual = gradients(arguments, SHAPES[0][4])
    with forced("torch"):
        expected = gradients(arguments, SHAPES[0][4])
    for ours, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[6]])
def test_the_same_bits_at_any_number_of_threads(shape, set_threads):
    arguments, results = draw(shape), []
    for threads in (1, 2, 3, 1):
        set_threads(threads)
        results.append(gradients(arguments, shape[4]))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))
