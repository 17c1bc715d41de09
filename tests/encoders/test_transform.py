"""Maps of the inputs before they are coded, against dense matrices."""

import pytest
import torch
from scipy.linalg import block_diag, hadamard

from halut.encoders.transform import Hadamard, Permutation, walsh_hadamard
from halut.ops.blocks import Blocks


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dense(D):
    """Hadamard matrices of the binary digits of D, the largest first, on the diagonal."""
    sizes = [2**i for i in reversed(range(12)) if D >> i & 1]
    return torch.from_numpy(block_diag(*[hadamard(n) / n**0.5 for n in sizes])).float()


def permuted(blocks):
    transform = Permutation(blocks)
    transform.learn(normal(50, blocks.inputs))
    return transform


@pytest.mark.parametrize("D", [1, 2, 3, 8, 12, 27, 192, 257])
def test_hadamard_is_the_dense_product_and_its_own_inverse(D):
    transform, x = Hadamard(Blocks(D, 1)), normal(5, D)
    torch.testing.assert_close(transform(x), x @ dense(D), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(transform(transform(x)), x, rtol=1e-5, atol=1e-5)


def test_hadamard_spreads_an_outlier_over_its_block():
    x = torch.zeros(1, 64)
    x[0, 5] = 64.0
    assert torch.equal(walsh_hadamard(x).abs(), torch.full((1, 64), 8.0))


@pytest.mark.parametrize("kind", [Hadamard, permuted])
@pytest.mark.parametrize(("D", "groups"), [(12, 1), (7, 3), (4, 2)])
def test_the_product_stays(kind, D, groups):
    blocks = Blocks(D, 2, groups)
    transform, x, weight = kind(blocks), normal(6, groups * D), normal(groups * 5, D, seed=1)

    def product(rows, W):
        return torch.einsum("ngd,gmd->ngm", rows.view(-1, groups, D), W.view(groups, -1, D))

    ours = product(transform(x), transform.weight(weight))
    torch.testing.assert_close(ours, product(x, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Hadamard, permuted])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_map_is_its_pixels_and_keeps_its_layout(kind, layout):
    transform = kind(Blocks(6, 2, 2))
    x = normal(2, 12, 3, 5).contiguous(memory_format=layout).requires_grad_()
    y = transform(x)
    pixels = transform(x.permute(0, 2, 3, 1).reshape(-1, 12))
    assert torch.equal(y.permute(0, 2, 3, 1).reshape(-1, 12), pixels)
    assert y.is_contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(transform, x.detach().double().requires_grad_())


def test_half_precision_does_not_overflow():
    x = torch.full((2, 64), 60000.0, dtype=torch.float16)
    y = Hadamard(Blocks(64, 8))(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y[:, 0], torch.full((2,), 8 * float(x[0, 0])))


def test_adds_and_bytes():
    assert Hadamard(Blocks(192, 4)).adds == 128 * 7 + 64 * 6
    assert Hadamard(Blocks(8, 2, 3)).adds == 3 * 8 * 3
    permutation = Permutation(Blocks(8, 2, 3))
    assert (permutation.adds, permutation.state_bytes) == (0, 4 * 24)
