"""Taps from the activation map equal the columns of im2col, and so do their gradients."""

import pytest
import torch
import torch.nn.functional as F

from halut.errors import HalutError
from halut.ops import ConvGeometry, conv_taps, im2col

GEOMETRIES = [  # kernel, stride, padding (left, right, top, bottom), dilation
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((3, 3), (2, 2), (0, 1, 0, 1), (1, 1)),
    ((1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((2, 3), (1, 2), (2, 0, 1, 3), (2, 1)),
    ((5, 1), (3, 1), (0, 0, 2, 2), (1, 1)),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def draw_map(channels=3, layout=torch.contiguous_format):
    torch.manual_seed(0)
    x = torch.randn(2, channels, 9, 8, dtype=torch.float64)
    return x.contiguous(memory_format=layout).requires_grad_()


def im2col_by_loops(x, kernel, stride, padding, dilation):
    """Oracle: every patch cut out by hand."""
    padded = F.pad(x, padding)
    OH, OW = ConvGeometry(kernel, stride, padding, dilation).output_size(*x.shape[2:])
    (kh, kw), rows = kernel, []
    for image in padded:
        for oy in range(OH):
            for ox in range(OW):
                top, left = oy * stride[0], ox * stride[1]
                bottom, right = top + dilation[0] * (kh - 1), left + dilation[1] * (kw - 1)
                patch = image[:, top : bottom + 1 : dilation[0], left : right + 1 : dilation[1]]
                rows.append(patch.reshape(-1))
    return torch.stack(rows)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_im2col_and_taps_equal_patches_cut_by_hand(geometry, layout):
    x = draw_map(layout=layout)
    rows = im2col_by_loops(x, *geometry)
    assert torch.equal(im2col(x, *geometry), rows)
    taps = torch.randint(0, rows.shape[1], (11,))  # any order, with repeats
    tapped = conv_taps(x, taps, *geometry)
    assert torch.equal(tapped, rows[:, taps])
    grad = torch.randn_like(tapped)
    ours = torch.autograd.grad(tapped, x, grad)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(rows[:, taps], x, grad)[0])
    assert ours.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_operator_passes_opcheck(geometry, layout):
    x = draw_map(layout=layout)
    taps = torch.randint(0, 3 * geometry[0][0] * geometry[0][1], (5,))
    arguments = (x, taps, *(list(part) for part in geometry))
    torch.library.opcheck(torch.ops.halut.conv_taps.default, arguments)


def test_rows_of_im2col_times_the_weight_are_the_convolution():
    x, weight = draw_map(channels=4), torch.randn(6, 2, 3, 3, dtype=torch.float64)
    expected = F.conv2d(x, weight, padding=1, groups=2)
    rows = im2col(x, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)).view(-1, 2, 18)
    y = torch.einsum("ngd,gmd->ngm", rows, weight.view(2, 3, 18)).reshape(2, 9, 8, 6)
    torch.testing.assert_close(y.permute(0, 3, 1, 2), expected)


def test_sliced_maps_and_no_images():
    geometry = GEOMETRIES[0]
    x = draw_map(channels=6).detach()[:, ::2, 1:, :-1]
    taps = torch.tensor([26, 0, 13])
    assert torch.equal(conv_taps(x, taps, *geometry), im2col_by_loops(x, *geometry)[:, taps])
    empty = torch.zeros(0, 3, 9, 8, requires_grad=True)
    tapped = conv_taps(empty, taps, *geometry)
    assert tapped.shape == (0, 3)
    tapped.sum().backward()
    assert empty.grad.shape == empty.shape
    channels_last = empty.detach().contiguous(memory_format=torch.channels_last)
    assert conv_taps(channels_last, taps, *geometry).shape == (0, 3)


def test_compiles_as_one_graph():
    x, taps = draw_map().detach().float(), torch.tensor([3, 20])

    def taps_of(x):
        return conv_taps(x * 2, taps, *GEOMETRIES[0]).square()

    compiled = torch.compile(taps_of, fullgraph=True, backend="aot_eager")
    grads = []
    for function in (taps_of, compiled):
        leaf = x.clone().requires_grad_()
        function(leaf).sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


def test_wrong_arguments_are_named():
    x = draw_map()
    with pytest.raises(HalutError, match=r"columns must be in 0\.\.26"):
        conv_taps(x, torch.tensor([27]), *GEOMETRIES[0])
    with pytest.raises(HalutError, match="taps must be int64"):
        conv_taps(x, torch.tensor([2.0]), *GEOMETRIES[0])
    with pytest.raises(HalutError, match="smaller than"):
        conv_taps(x, torch.tensor([2]), (11, 3))
    with pytest.raises(HalutError, match="padding four"):
        im2col(x, (3, 3), (1, 1), (1, 1))
    with pytest.raises(HalutError, match="4 dimensions"):
        im2col(x[0], (3, 3))
