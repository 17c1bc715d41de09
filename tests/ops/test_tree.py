"""Tree operators against their oracles: values, gradients, tracing, odd sizes and bad input."""

import pytest
import torch

from halut.errors import HalutError
from halut.ops import ConvGeometry, accumulate, columns_of, tree_encode, tree_matmul
from halut.ops.core import checks
from tests.oracles.tree import (
    tree_assign_reference,
    tree_encode_reference,
    tree_matmul_reference,
)

SHAPES = [  # N, G, C, K, M
    (40, 1, 3, 16, 5),
    (17, 2, 3, 8, 4),
    (9, 4, 1, 2, 1),
    (20, 1, 1, 2, 3),
    (50, 1, 2, 256, 3),
    (23, 3, 2, 4, 2),
    (1, 1, 1, 32, 7),
    (0, 2, 3, 4, 5),
]


def draw(N, G, C, K, M, dtype=torch.float64, per_codebook=False):
    """taps, thresholds, lut, table, tau, and an output gradient."""
    torch.manual_seed(N + 3 * C + K)
    depth = K.bit_length() - 1
    lut = torch.randn(G, C, K, M, dtype=dtype)
    tau = torch.rand(G * C, dtype=dtype) + 0.4 if per_codebook else torch.tensor(0.7, dtype=dtype)
    return (
        torch.randn(N, G * C * depth, dtype=dtype),
        torch.randn(G * C, K - 1, dtype=dtype) * 0.7,
        lut,
        lut + 0.1 * torch.randn_like(lut),
        tau,
        torch.randn(N, G * M, dtype=dtype),
    )


def gradients(function, taps, thresholds, lut, table, tau, grad, ste_mix=1.0, flips=False):
    """y and the gradients of taps, thresholds, lut and tau."""
    leaves = [value.clone().requires_grad_() for value in (taps, thresholds, lut, tau)]
    y = function(leaves[0], leaves[1], leaves[2], table, leaves[3], ste_mix=ste_mix, flips=flips)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def every(x):
    """Taps that are all columns of x, in order."""
    return torch.arange(x.shape[1])


def matmul(x, *arguments, **options):
    return tree_matmul(x, every(x), *arguments, **options)


@pytest.mark.parametrize("shape", SHAPES)
def test_codes_equal_the_walk_down_the_tree(shape):
    taps, thresholds, *_ = draw(*shape)
    thresholds = torch.round(thresholds * 4) / 4
    taps = torch.round(taps * 4) / 4  # many values on a threshold: those go left
    assert torch.equal(
        tree_encode(taps, every(taps), thresholds), tree_encode_reference(taps, thresholds)
    )


def test_codes_by_hand():
    thresholds = torch.tensor([[0.0, -1.0, 1.0]])
    taps = torch.tensor([[0.0, -1.0], [0.0, -0.5], [0.1, 1.0], [0.1, 1.5]])
    assert tree_encode(taps, every(taps), thresholds).flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("per_codebook", [False, True])
@pytest.mark.parametrize("flips", [False, True])
def test_gradients_equal_the_oracle(shape, per_codebook, flips):
    arguments, options = draw(*shape, per_codebook=per_codebook), {"ste_mix": 0.6, "flips": flips}
    expected = gradients(tree_matmul_reference, *arguments, **options)
    for ours, theirs in zip(gradients(matmul, *arguments, **options), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("flips", [False, True])
def test_gradients_in_float32(shape, flips):
    arguments = draw(*shape, dtype=torch.float32)
    expected = gradients(tree_matmul_reference, *arguments, flips=flips)
    for ours, theirs in zip(gradients(matmul, *arguments, flips=flips), expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flips", [False, True])
def test_an_input_on_its_threshold_counts_as_left(flips):
    taps, thresholds, *rest = draw(60, 1, 2, 8, 3)
    arguments = torch.round(taps * 2) / 2, torch.round(thresholds * 2) / 2, *rest
    expected = gradients(tree_matmul_reference, *arguments, flips=flips)
    for ours, theirs in zip(gradients(matmul, *arguments, flips=flips), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_chunks_and_strides_do_not_change_the_gradients(monkeypatch):
    taps, thresholds, lut, table, tau, grad = draw(101, 2, 3, 16, 4)
    expected = gradients(matmul, taps, thresholds, lut, table, tau, grad)
    monkeypatch.setitem(checks.WORKSPACE, "cpu", 40_000)
    columns = taps.t().contiguous().t()
    ours = gradients(matmul, columns, thresholds, lut, table, tau, grad)
    for value, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(value, theirs)


MAPS = [  # kernel, stride, padding (left, right, top, bottom), dilation
    ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1)),
    ConvGeometry((3, 2), (2, 1), (0, 1, 2, 0), (1, 2)),
    ConvGeometry((1, 1), (2, 2)),
]


def draw_map(geometry, layout, groups=2, K=8, dtype=torch.float64):
    """A map, taps anywhere with repeats, and the rest as `draw`."""
    torch.manual_seed(5)
    x = torch.randn(3, 4, 7, 6, dtype=dtype).contiguous(memory_format=layout)
    kh, kw = geometry.kernel_size
    OH, OW = geometry.output_size(7, 6)
    depth = K.bit_length() - 1
    taps = torch.randint(0, 4 * kh * kw, (groups * 3 * depth,))
    return x, taps, *draw(3 * OH * OW, groups, 3, K, 5, dtype)[1:]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("geometry", MAPS)
@pytest.mark.parametrize("flips", [False, True])
def test_maps_are_read_in_place(geometry, layout, flips):
    x, taps, *rest = draw_map(geometry, layout)

    def oracle(x, *arguments, **options):
        return tree_matmul_reference(columns_of(x, taps, geometry), *arguments, **options)

    def ours(x, *arguments, **options):
        return tree_matmul(x, taps, *arguments, **options, geometry=geometry)

    options = {"ste_mix": 0.6, "flips": flips}
    expected = gradients(oracle, x, *rest, **options)
    for value, reference in zip(gradients(ours, x, *rest, **options), expected, strict=True):
        torch.testing.assert_close(value, reference)
    codes = tree_encode(x, taps, rest[0], geometry)
    assert torch.equal(codes, tree_encode_reference(columns_of(x, taps, geometry), rest[0]))
    thresholds, lut, table, tau = (value.requires_grad_() for value in rest[:4])
    arguments = (x.requires_grad_(), taps, thresholds, lut, table.detach(), tau, 0.5)
    arguments = (*arguments, geometry.numbers, flips)
    torch.library.opcheck(torch.ops.halut.tree_matmul.default, arguments)


def test_sliced_and_empty_maps():
    x, taps, thresholds, *_ = draw_map(MAPS[0], torch.contiguous_format)
    wide = torch.zeros(3, 8, 9, 9, dtype=x.dtype)[:, ::2, 1:8, 2:8]
    wide.copy_(x)
    expected = tree_encode(x, taps, thresholds, MAPS[0])
    assert torch.equal(tree_encode(wide, taps, thresholds, MAPS[0]), expected)
    assert tree_encode(x[:0], taps, thresholds, MAPS[0]).shape == (0, 6)


def test_relaxation_is_a_distribution_and_its_gradient_descends():
    taps, thresholds, _, _, tau, _ = draw(30, 1, 2, 16, 3)
    soft = tree_assign_reference(taps, thresholds, tau)
    torch.testing.assert_close(soft.sum(-1), torch.ones_like(soft[..., 0]))
    assert torch.equal(soft.argmax(-1), tree_encode(taps, every(taps), thresholds).long())


def test_quantized_tables_leave_the_encoders_gradient_unchanged():
    taps, thresholds, lut, table, tau, grad = draw(40, 1, 4, 16, 6, dtype=torch.float32)
    exact = gradients(matmul, taps, thresholds, lut, lut, tau, grad)
    quantized = gradients(matmul, taps, thresholds, lut, table, tau, grad)
    assert not torch.equal(exact[0], quantized[0])
    for ours, theirs in zip(exact[1:], quantized[1:], strict=True):
        assert torch.equal(ours, theirs)


def test_relax_scales_the_encoder_and_not_the_lut():
    arguments = draw(30, 1, 3, 8, 4)
    whole = gradients(matmul, *arguments)
    half = gradients(matmul, *arguments, ste_mix=0.5)
    none = gradients(matmul, *arguments, ste_mix=0.0)
    assert torch.equal(whole[3], half[3])
    assert torch.equal(whole[3], none[3])
    for place in (1, 2, 4):
        torch.testing.assert_close(half[place], whole[place] / 2)
        assert not none[place].any()


def test_only_the_needed_gradients_are_computed():
    taps, thresholds, lut, table, tau, grad = draw(30, 1, 3, 8, 4)
    lut.requires_grad_()
    y = matmul(taps, thresholds, lut, table, tau)
    y.backward(grad)
    codes = tree_encode(taps, every(taps), thresholds)
    expected = torch.autograd.grad(accumulate(codes, lut), lut, grad)[0]
    torch.testing.assert_close(lut.grad, expected)
    assert taps.grad is None


@pytest.mark.parametrize("shape", SHAPES)
def test_operators_pass_opcheck(shape):
    taps, thresholds, lut, table, tau, _ = draw(*shape)
    torch.library.opcheck(torch.ops.halut.tree_encode.default, (taps, every(taps), thresholds, []))
    leaves = [value.requires_grad_() for value in (taps, thresholds, lut)]
    for tapped in (leaves[0], taps.detach().t().contiguous().t().requires_grad_()):
        torch.library.opcheck(
            torch.ops.halut.tree_matmul.default,
            (tapped, every(tapped), *leaves[1:], table, tau.requires_grad_(), 0.5, []),
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_taps_compute_in_float32(dtype):
    taps, thresholds, lut, table, tau, grad = draw(40, 1, 3, 16, 5, dtype=torch.float32)
    taps = taps.to(dtype)
    narrow = gradients(matmul, taps, thresholds, lut, table, tau, grad)
    wide = gradients(matmul, taps.float(), thresholds, lut, table, tau, grad)
    assert [value.dtype for value in narrow] == [torch.float32, dtype, *[torch.float32] * 3]
    assert torch.equal(narrow[0], wide[0])
    torch.testing.assert_close(narrow[1], wide[1].to(dtype))
    torch.testing.assert_close(narrow[2:], wide[2:])


def test_autocast_changes_nothing():
    arguments = draw(40, 1, 3, 16, 5, dtype=torch.float32)
    expected = gradients(matmul, *arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for ours, theirs in zip(gradients(matmul, *arguments), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_compiles_as_one_graph():
    arguments = draw(12, 1, 3, 8, 4, dtype=torch.float32)

    def doubled(taps, *arguments, **options):
        return matmul(taps * 2, *arguments, **options) * 2

    compiled = torch.compile(doubled, fullgraph=True, backend="aot_eager")
    expected = gradients(doubled, *arguments)
    for ours, theirs in zip(gradients(compiled, *arguments), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_wrong_arguments_are_named():
    taps, thresholds, lut, table, tau, _ = draw(5, 1, 3, 8, 4)
    with pytest.raises(HalutError, match=r"need split_dims \[9\]"):
        tree_encode(taps, every(taps)[:-1], thresholds)
    with pytest.raises(HalutError, match=r"columns must be in 0\.\.8"):
        tree_encode(taps, every(taps) + 1, thresholds)
    with pytest.raises(HalutError, match="power of two"):
        tree_encode(taps, every(taps), thresholds[:, :-1])
    with pytest.raises(HalutError, match="x must be floating"):
        tree_encode(taps.long(), every(taps), thresholds)
    with pytest.raises(HalutError, match="K = 4"):
        matmul(taps, thresholds, lut[:, :, :4], table[:, :, :4], tau)
    with pytest.raises(HalutError, match="table must be like lut"):
        matmul(taps, thresholds, lut, table.float(), tau)
    with pytest.raises(HalutError, match=r"floating scalar or \[3\]"):
        matmul(taps, thresholds, lut, table, torch.ones(2))
    with pytest.raises(HalutError, match="different devices"):
        matmul(taps, thresholds, lut.to("meta"), table.to("meta"), tau)
    with pytest.raises(HalutError, match="or a geometry"):
        tree_encode(taps.view(1, 1, *taps.shape), every(taps), thresholds)
    small = taps.new_zeros(1, 1, 2, 2)
    with pytest.raises(HalutError, match="smaller than"):
        tree_encode(small, every(taps), thresholds, ConvGeometry((3, 3)))
