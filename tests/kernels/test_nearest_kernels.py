"""Nearest prototypes by the compiled kernels: one answer at every level and number of threads."""

from __future__ import annotations

import pytest
import torch

from halut.ops import ConvGeometry, cpu, nearest_encode, nearest_matmul
from halut.ops.blocks import Blocks
from tests.kernels.drawn import arranged, every_level
from tests.oracles.im2col import im2col_reference
from tests.oracles.nearest import nearest_assign_reference, nearest_matmul_reference

pytestmark = pytest.mark.skipif(not cpu.cpu_capabilities(), reason="no compiled kernels")

METRICS = ("l2", "l1", "chebyshev")
MAPS = [  # images, channels, sides, geometry, groups, C
    (2, 6, (9, 11), ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1)), 1, 6),
    (3, 4, (7, 5), ConvGeometry((3, 2), (2, 1), (0, 1, 2, 0), (1, 2)), 2, 5),  # uneven blocks
    (21, 20, (4, 4), ConvGeometry((1, 1)), 1, 4),  # blocks over several channels
    (1, 2, (40, 9), ConvGeometry((3, 3), (2, 3), (2, 2, 2, 2), (2, 1)), 2, 7),  # parts of one
    (70, 18, (1, 1), ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1)), 1, 18),
]


def draw(case, K=16, seed=0):
    B, channels, sides, g, groups, C = case
    generator = torch.Generator().manual_seed(seed)
    D = channels // groups * g.kernel_size[0] * g.kernel_size[1]
    blocks = Blocks(D, C, groups)
    prototypes = torch.randn(groups * C, K, blocks.V, generator=generator)
    inside = (blocks.columns() >= 0)[:, None]
    return torch.randn(B, channels, *sides, generator=generator), prototypes * inside, inside


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", MAPS)
@pytest.mark.parametrize("K", [2, 5, 16, 256])
def test_levels_layouts_and_threads_find_the_same_nearest(case, metric, K):
    x, prototypes, _ = draw(case, K)
    g, groups = case[3], case[4]
    rows, one = im2col_reference(x.double(), g), torch.ones((), dtype=torch.float64)
    distance, _ = nearest_assign_reference(rows, prototypes.double(), one, metric, groups)
    first = nearest_encode(x, prototypes, metric, groups, g)
    smallest = distance.gather(-1, first.long()[..., None])[..., 0]
    assert bool((smallest <= distance.amin(-1) + 1e-5 * distance.amax(-1)).all())
    for _ in every_level():
        for layout in ("contiguous", "channels_last", "strided", "transposed"):
            y = nearest_encode(arranged(x, layout), prototypes, metric, groups, g)
            assert torch.equal(y, first)
    assert torch.equal(nearest_encode(rows.float(), prototypes, metric, groups), first)


def step(x, prototypes, lut, tau, grad, metric, groups, geometry):
    """Gradients of x, prototypes, lut and tau."""
    leaves = [value.detach().requires_grad_() for value in (x, prototypes, lut, tau)]
    y = nearest_matmul(*leaves[:3], lut, leaves[3], metric, groups, 0.75, geometry)
    return torch.autograd.grad(y, leaves, grad)


def product(case, M=5, per_codebook=True):
    x, prototypes, inside = draw(case)
    groups, C = case[4:]
    generator = torch.Generator().manual_seed(1)
    lut = torch.randn(groups, C, 16, M, generator=generator)
    tau = torch.rand(groups * C, generator=generator) + 2
    N = len(im2col_reference(x, case[3]))
    grad = torch.randn(N, groups * M, generator=generator)
    return x, prototypes, lut, tau if per_codebook else tau[0], grad, inside


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", MAPS)
def test_gradients_of_maps_equal_the_oracle(case, metric):
    *arguments, inside = product(case, M=1 + MAPS.index(case), per_codebook=case[0] > 2)
    g, groups = case[3], case[4]
    x, p, lut, tau = (v.double().requires_grad_() for v in arguments[:4])
    y = nearest_matmul_reference(
        im2col_reference(x, g), p, lut, lut.detach(), tau, metric, groups, 0.75
    )
    expected = list(torch.autograd.grad(y, (x, p, lut, tau), arguments[4].double()))
    expected[1] = expected[1] * inside
    for _ in every_level():
        for layout in ("contiguous", "channels_last"):
            x = arranged(arguments[0], layout)
            actual = step(x, *arguments[1:], metric, groups, g)
            for value, reference in zip(actual, expected, strict=True):
                size = float(reference.abs().max())
                torch.testing.assert_close(value.double(), reference, rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("case", MAPS[:2])
def test_gradients_are_the_same_bits_again_and_with_more_threads(case, set_threads):
    arguments = product(case)[:-1]
    results = []
    for threads in (1, 1, 3):
        set_threads(threads)
        results.append(step(*arguments, "l2", case[4], case[3]))
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, results[0], strict=True))


@pytest.mark.parametrize("case", [MAPS[0], (0, *MAPS[0][1:])])
def test_operators_on_maps_pass_opcheck(case):
    x, p, lut, tau, _, _ = product(MAPS[0])
    x, numbers = x[: case[0]], case[3].numbers
    torch.library.opcheck(torch.ops.halut.nearest_encode.default, (x, p, "l2", 1, numbers))
    leaves = [value.requires_grad_() for value in (x, p, lut)]
    arguments = (*leaves, lut.detach(), tau.requires_grad_(), "l2", 0.5, numbers)
    torch.library.opcheck(torch.ops.halut.nearest_matmul.default, arguments)


def test_nothing_wider_than_the_map_is_kept_for_backward():
    x, p, lut, tau, _, _ = product(MAPS[0], M=3)
    sizes = []

    def pack(value):
        sizes.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        nearest_matmul(x.requires_grad_(), p, lut, lut, tau, geometry=MAPS[0][3])
    codes = 2 * 9 * 11 * 6
    assert sizes
    assert max(sizes) == max(codes, x.numel(), lut.numel(), p.numel())
