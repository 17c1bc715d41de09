"""Nearest-prototype operators against their oracles, for every metric and for uneven blocks."""

import pytest
import torch

from halut.errors import HalutError
from halut.ops import nearest_encode, nearest_matmul
from halut.ops.blocks import Blocks
from halut.ops.core import checks
from tests.oracles.nearest import nearest_encode_reference, nearest_matmul_reference

METRICS = ["l2", "l1", "chebyshev"]
SHAPES = [  # N, G, D, C, K, M
    (40, 1, 12, 3, 16, 5),
    (17, 2, 7, 3, 8, 4),
    (9, 4, 9, 1, 5, 1),
    (20, 1, 1, 1, 2, 3),
    (30, 1, 5, 2, 256, 3),
    (0, 2, 7, 3, 4, 5),
]


def draw(N, G, D, C, K, M, dtype=torch.float64, per_codebook=False):
    """x, prototypes (zero in the padding), lut, table, tau, and an output gradient."""
    torch.manual_seed(N + 3 * C + K)
    blocks = Blocks(D, C, G)
    inside = (blocks.columns() >= 0).to(dtype)
    lut = torch.randn(G, C, K, M, dtype=dtype)
    tau = torch.rand(G * C, dtype=dtype) + 0.4 if per_codebook else torch.tensor(0.7, dtype=dtype)
    return (
        torch.randn(N, G * D, dtype=dtype),
        torch.randn(G * C, K, blocks.V, dtype=dtype) * inside[:, None],
        lut,
        lut + 0.1 * torch.randn_like(lut),
        tau,
        torch.randn(N, G * M, dtype=dtype),
    )


def gradients(function, x, prototypes, lut, table, tau, grad, metric, ste_mix=1.0):
    """y and the gradients of x, prototypes, lut and tau."""
    leaves = [value.clone().requires_grad_() for value in (x, prototypes, lut, tau)]
    groups = lut.shape[0]
    y = function(leaves[0], leaves[1], leaves[2], table, leaves[3], metric, groups, ste_mix)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_the_oracle(shape, metric):
    arguments = draw(*shape, per_codebook=shape[0] % 2 == 0)
    ours = gradients(nearest_matmul, *arguments, metric, ste_mix=0.6)
    theirs = gradients(nearest_matmul_reference, *arguments, metric, ste_mix=0.6)
    blocks = Blocks(shape[2], shape[3], shape[1])
    # The oracle's padded inputs are constants, its padded prototypes are not: leave those out.
    theirs[2] = theirs[2] * (blocks.columns() >= 0)[:, None]
    for value, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_equal_the_oracle(shape, metric, dtype):
    x, prototypes, *_ = draw(*shape, dtype=dtype)
    codes = nearest_encode(x, prototypes, metric, shape[1])
    assert torch.equal(codes, nearest_encode_reference(x, prototypes, metric, shape[1]))


@pytest.mark.parametrize("metric", METRICS)
def test_ties_take_the_lowest_index(metric):
    torch.manual_seed(0)
    x = torch.randint(-2, 3, (200, 6)).float()
    prototypes = torch.randint(-2, 3, (2, 8, 3)).float()
    prototypes[:, 4:] = prototypes[:, :4]
    codes = nearest_encode(x, prototypes, metric)
    assert codes.max() < 4
    assert torch.equal(codes, nearest_encode_reference(x, prototypes, metric, 1))


def test_a_common_offset_does_not_cost_precision():
    x, prototypes, *_ = draw(200, 1, 12, 3, 16, 5, dtype=torch.float32)
    x, prototypes = x + 3000, prototypes + 3000
    exact = nearest_encode_reference(x.double(), prototypes.double(), "l2", 1)
    assert torch.equal(nearest_encode(x, prototypes, "l2"), exact)


def test_a_row_with_nan_has_a_code_within_the_table():
    x, prototypes, *_ = draw(8, 1, 12, 3, 16, 5)
    x[2, :4] = float("nan")
    assert nearest_encode(x, prototypes, "l2").max() < 16


def test_chunks_do_not_change_the_result(monkeypatch):
    arguments = draw(101, 2, 7, 3, 16, 4)
    expected = gradients(nearest_matmul, *arguments, "l2")
    monkeypatch.setitem(checks.WORKSPACE, "cpu", 60_000)
    for value, theirs in zip(gradients(nearest_matmul, *arguments, "l2"), expected, strict=True):
        torch.testing.assert_close(value, theirs)


def test_quantized_tables_leave_the_encoders_gradient_unchanged():
    x, prototypes, lut, table, tau, grad = draw(40, 1, 12, 4, 16, 6, dtype=torch.float32)
    exact = gradients(nearest_matmul, x, prototypes, lut, lut, tau, grad, "l2")
    quantized = gradients(nearest_matmul, x, prototypes, lut, table, tau, grad, "l2")
    assert not torch.equal(exact[0], quantized[0])
    for value, theirs in zip(exact[1:], quantized[1:], strict=True):
        assert torch.equal(value, theirs)


def test_relax_scales_the_encoder_and_not_the_lut():
    arguments = draw(30, 1, 6, 3, 8, 4)
    whole = gradients(nearest_matmul, *arguments, "l2")
    none = gradients(nearest_matmul, *arguments, "l2", ste_mix=0.0)
    assert torch.equal(whole[3], none[3])
    assert not any(none[place].any() for place in (1, 2, 4))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", SHAPES[:3] + SHAPES[-1:])
def test_operators_pass_opcheck(shape, metric):
    x, prototypes, lut, table, tau, _ = draw(*shape)
    arguments = (x, prototypes, metric, shape[1], [])
    torch.library.opcheck(torch.ops.halut.nearest_encode.default, arguments)
    leaves = [value.requires_grad_() for value in (x, prototypes, lut)]
    torch.library.opcheck(
        torch.ops.halut.nearest_matmul.default,
        (*leaves, table, tau.requires_grad_(), metric, 0.5, []),
    )


def test_narrow_inputs_and_autocast_compute_in_float32():
    x, *rest = draw(40, 1, 12, 3, 16, 5, dtype=torch.float32)
    wide = gradients(nearest_matmul, x.bfloat16().float(), *rest, "l2")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = gradients(nearest_matmul, x.bfloat16(), *rest, "l2")
    assert narrow[1].dtype == torch.bfloat16
    assert torch.equal(narrow[0], wide[0])
    torch.testing.assert_close(narrow[1], wide[1].bfloat16())
    torch.testing.assert_close(narrow[2:], wide[2:])


def test_compiles_as_one_graph():
    arguments = draw(12, 1, 6, 3, 8, 4, dtype=torch.float32)

    def doubled(x, *rest):
        return nearest_matmul(x * 2, *rest) * 2

    compiled = torch.compile(doubled, fullgraph=True, backend="aot_eager")
    expected = gradients(doubled, *arguments, "l2")
    for value, theirs in zip(gradients(compiled, *arguments, "l2"), expected, strict=True):
        torch.testing.assert_close(value, theirs)


def test_wrong_arguments_are_named():
    x, prototypes, lut, table, tau, _ = draw(5, 1, 7, 3, 8, 4)
    with pytest.raises(HalutError, match="choose one of: l2, l1, chebyshev"):
        nearest_encode(x, prototypes, "cosine")
    with pytest.raises(HalutError, match=r"prototypes must be \[3, K, 3\]"):
        nearest_encode(x, prototypes[:, :, :2], "l2")
    with pytest.raises(HalutError, match="2 groups divide neither"):
        nearest_encode(x, prototypes, "l2", 2)
    with pytest.raises(HalutError, match="does not fit 1 groups"):
        nearest_matmul(x, prototypes, lut[:, :, :4], table[:, :, :4], tau)
    with pytest.raises(HalutError, match="x must be floating"):
        nearest_encode(x.long(), prototypes, "l2")
