"""The gradient carried from the prototypes to the inputs, against autograd of its definition."""

import pytest
import torch

from halut.errors import HalutError
from halut.ops import ConvGeometry, carry_gradient, im2col, nearest_encode
from halut.ops.blocks import Blocks
from halut.ops.core import checks

METHODS = ["rotation", "diveq"]
SHAPES = [  # N, G, D, C, K, M
    (40, 1, 12, 3, 16, 5),
    (17, 2, 7, 3, 8, 4),
    (9, 4, 9, 1, 5, 1),
    (20, 1, 1, 1, 2, 3),
    (0, 2, 7, 3, 4, 5),
]
MAPS = [
    (ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1)), 1, 4),
    (ConvGeometry((3, 3), (2, 2), (0, 1, 0, 1)), 2, 5),
    (ConvGeometry((2, 3), (1, 2), (2, 0, 1, 3), (2, 1)), 4, 1),
]


def draw(N, G, D, C, K, M, dtype=torch.float64):
    """x, prototypes (zero in the padding), weight and an output gradient."""
    torch.manual_seed(N + 3 * C + K)
    blocks = Blocks(D, C, G)
    inside = (blocks.columns() >= 0).to(dtype)
    return (
        torch.randn(N, G * D, dtype=dtype),
        torch.randn(G * C, K, blocks.V, dtype=dtype) * inside[:, None],
        torch.randn(G * M, D, dtype=dtype),
        torch.randn(N, G * M, dtype=dtype),
    )


def rotation_matrix(a, b):
    """The rotation in the plane of the unit vectors a and b that takes a to b (Rodrigues).

    Of opposite ones, which have no plane, the reflection.
    """
    if 1 + a @ b < 1e-9:
        return torch.eye(len(a), dtype=a.dtype) - 2 * torch.outer(b, b)
    turn = torch.outer(b, a) - torch.outer(a, b)
    return torch.eye(len(a), dtype=a.dtype) + turn + turn @ turn / (1 + a @ b)


def quantized(x, q, method):
    """One block's q, as a function of x (and q) with the method's gradient."""
    error = q - x
    if not error.any() or (method == "rotation" and not (x.any() and q.any())):
        return x + error.detach()
    if method == "diveq":
        return x + error.norm() * (error / error.norm()).detach()
    size_x, size_q = x.norm().detach(), q.norm().detach()
    return (size_q / size_x) * rotation_matrix(x.detach() / size_x, q.detach() / size_q) @ x


def reference(rows, prototypes, weight, codes, method):
    """The product of the quantized rows, block by block: [N, G * M]."""
    D = weight.shape[1]
    G = rows.shape[1] // D
    blocks = Blocks(D, len(prototypes) // G, G)
    out = []
    for n in range(len(rows)):
        parts = [
            quantized(rows[n, s : s + w], prototypes[c, int(codes[n, c]), :w], method)
            for c, (s, w) in enumerate(zip(blocks.starts, blocks.widths, strict=True))
        ]
        x = torch.cat(parts).view(G, D)
        out.append(torch.einsum("gd,gmd->gm", x, weight.view(G, -1, D)).flatten())
    return torch.stack(out) if out else rows.sum() * rows.new_zeros(0, len(weight))


def gradients(of, x, prototypes, grad):
    x, prototypes = x.clone().requires_grad_(), prototypes.clone().requires_grad_()
    y = of(x, prototypes)
    return torch.autograd.grad(y, [x, prototypes], grad, allow_unused=True)


def carried(x, prototypes, weight, grad, method, geometry=None, groups=1):
    codes = nearest_encode(x, prototypes, "l2", groups, geometry)
    y = torch.zeros_like(grad)
    return gradients(
        lambda x, p: carry_gradient(y, x, codes, p, weight, method, geometry), x, prototypes, grad
    )


def assert_equal(actual, expected, method):
    torch.testing.assert_close(actual[0], expected[0])
    if method == "rotation":
        assert actual[1] is None
    else:
        torch.testing.assert_close(actual[1], expected[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows(shape, method):
    x, prototypes, weight, grad = draw(*shape)
    codes = nearest_encode(x, prototypes, "l2", shape[1])
    expected = gradients(
        lambda x, p: reference(x, p, weight, codes, method) + 0 * p.sum(), x, prototypes, grad
    )
    assert_equal(carried(x, prototypes, weight, grad, method, groups=shape[1]), expected, method)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("geometry", "groups", "C"), MAPS)
def test_maps(geometry, groups, C, method, layout, monkeypatch):
    torch.manual_seed(1)
    x = torch.randn(3, 4, 6, 5, dtype=torch.float64).contiguous(memory_format=layout)
    D = 4 // groups * geometry.kernel_size[0] * geometry.kernel_size[1]
    N = 3 * geometry.output_size(6, 5)[0] * geometry.output_size(6, 5)[1]
    _, prototypes, weight, grad = draw(N, groups, D, C, 8, 2)
    codes = nearest_encode(x, prototypes, "l2", groups, geometry)

    def definition(x, p):
        g = geometry
        rows = im2col(x, g.kernel_size, g.stride, g.padding, g.dilation)
        return reference(rows, p, weight, codes, method) + 0 * p.sum()

    expected = gradients(definition, x, prototypes, grad)
    for workspace in (16 << 20, 1):  # in one part, and image by image
        monkeypatch.setitem(checks.WORKSPACE, "cpu", workspace)
        actual = carried(x, prototypes, weight, grad, method, geometry, groups)
        assert_equal(actual, expected, method)
        assert actual[0].stride() == x.stride()


@pytest.mark.parametrize("method", METHODS)
def test_zero_equal_and_opposite_vectors_give_finite_gradients(method):
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [1e-30, 0.0]])
    prototypes = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [-1.5, -2.0], [1.0, 1.0]]])
    codes = torch.tensor([[3], [0], [1], [2], [1]], dtype=torch.uint8)
    weight, grad = torch.eye(2), torch.tensor([1.0, 2.0]).expand(5, 2)
    y = torch.zeros(5, 2)
    dx, dp = gradients(
        lambda x, p: carry_gradient(y, x, codes, p, weight, method) + 0 * p.sum(),
        x, prototypes, grad,
    )  # fmt: skip
    assert dx.isfinite().all()
    assert dp.isfinite().all()
    g = grad[0]
    torch.testing.assert_close(dx[2], g)  # x is its prototype
    if method == "rotation":
        torch.testing.assert_close(dx[:2], grad[:2])
        unit = torch.tensor([0.6, 0.8])
        torch.testing.assert_close(dx[3], 0.5 * (g - 2 * unit * (unit @ g)))
    else:
        away = torch.tensor([-0.6, -0.8])
        for n in (1, 3):  # orthogonal to the error, of which the prototype has the rest
            torch.testing.assert_close(dx[n], g - away * (away @ g))
        torch.testing.assert_close(dp[0, 0], away * (away @ g))


@pytest.mark.parametrize("method", METHODS)
def test_narrow_inputs_compute_in_float32(method):
    x, prototypes, weight, grad = draw(40, 1, 12, 3, 16, 5, dtype=torch.float32)
    wide = carried(x.bfloat16().float(), prototypes, weight, grad, method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = carried(x.bfloat16(), prototypes, weight, grad, method)
    assert narrow[0].dtype == torch.bfloat16
    torch.testing.assert_close(narrow[0], wide[0].bfloat16())


@pytest.mark.parametrize("method", METHODS)
def test_the_operator_passes_opcheck_and_compiles(method):
    x, prototypes, weight, grad = draw(17, 2, 7, 3, 8, 4)
    codes = nearest_encode(x, prototypes, "l2", 2)
    arguments = (grad, x, codes, prototypes, weight, method, True, [])
    torch.library.opcheck(torch.ops.halut.carry_gradient.default, arguments)

    def of(x, p):
        return carry_gradient(grad * 2, x, codes, p, weight, method)

    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")
    actual, expected = (gradients(one, x, prototypes, grad) for one in (compiled, of))
    assert torch.equal(actual[0], expected[0])
    if method == "diveq":
        assert torch.equal(actual[1], expected[1])


def test_what_does_not_fit_is_named():
    x, prototypes, weight, grad = draw(17, 2, 7, 3, 8, 4)
    codes = nearest_encode(x, prototypes, "l2", 2)
    with pytest.raises(HalutError, match="unknown method 'turn'; choose one of: rotation, diveq"):
        carry_gradient(grad, x, codes, prototypes, weight, "turn")
    with pytest.raises(HalutError, match="do not fit"):
        carry_gradient(grad[:, :3], x, codes, prototypes, weight, "diveq")
    with pytest.raises(HalutError, match="do not fit"):
        carry_gradient(grad, x[:, :7], codes, prototypes, weight, "diveq")
