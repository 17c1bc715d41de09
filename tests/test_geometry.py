"""ConvGeometry of convolutions: output sizes and padding, as torch and timm have them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from halut.ops.geometry import pad
from halut.sites.find import exact_product, find_sites

geometries = st.builds(
    dict,
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(8, 11), st.integers(8, 11)),
)


@settings(max_examples=60, deadline=None)
@given(geometries, st.tuples(*[st.integers(0, 3)] * 2))
def test_geometry_of_a_convolution(shape, padding):
    conv = nn.Conv2d(1, 1, shape["kernel"], shape["stride"], padding, shape["dilation"], bias=False)
    sites, _ = find_sites(nn.Sequential(conv), torch.zeros(1, 1, *shape["size"]))
    out = conv(torch.zeros(1, 1, *shape["size"]))
    assert sites[0].geometry.output_size(*shape["size"]) == out.shape[2:]
    assert sites[0].rows == out.shape[2] * out.shape[3]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=60, deadline=None)
@given(geometries)
def test_same_padding_of_torch(shape):
    conv = nn.Conv2d(1, 1, shape["kernel"], padding="same", dilation=shape["dilation"])
    sites, _ = find_sites(nn.Sequential(conv), torch.zeros(1, 1, *shape["size"]))
    geometry = sites[0].geometry
    assert geometry.output_size(*shape["size"]) == shape["size"]
    x = torch.randn(1, 1, *shape["size"], generator=torch.Generator().manual_seed(0))
    padded = F.conv2d(pad(x, geometry), conv.weight, conv.bias, 1, 0, conv.dilation)
    torch.testing.assert_close(padded, conv(x))


@settings(max_examples=60, deadline=None)
@given(geometries)
def test_same_padding_of_tensorflow(shape):
    conv = Conv2dSame(1, 1, shape["kernel"], shape["stride"], dilation=shape["dilation"])
    sites, _ = find_sites(nn.Sequential(conv), torch.zeros(1, 1, *shape["size"]))
    x = torch.randn(1, 1, *shape["size"], generator=torch.Generator().manual_seed(0))
    geometry = sites[0].geometry
    assert conv(x).shape[2:] == geometry.output_size(*shape["size"])
    assert geometry.output_size(*shape["size"]) == tuple(
        -(-n // s) for n, s in zip(shape["size"], shape["stride"], strict=True)
    )
    torch.testing.assert_close(exact_product(x, conv.weight, conv.bias, sites[0]), conv(x))
