"""Slow, obvious forms of what table layers compute, and layers to compare them with."""

from __future__ import annotations

import numpy as np
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from halut.replace.operator_registry import make_operator
from halut.sites.find import find_sites
from tests.oracles.im2col import im2col_reference

LAYERS = {
    "linear": (lambda: nn.Linear(11, 6), (2, 3, 11), {"C": 4}),
    "no bias": (lambda: nn.Linear(8, 5, bias=False), (6, 8), {"V": 4}),
    "3x3": (lambda: nn.Conv2d(3, 6, 3, padding=1), (2, 3, 6, 5), {}),
    "strided": (lambda: nn.Conv2d(2, 4, 3, (2, 1), (0, 2)), (2, 2, 7, 6), {"C": 5}),
    "grouped": (lambda: nn.Conv2d(6, 9, 3, 2, 1, groups=3), (2, 6, 7, 7), {"C": 4}),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4), (2, 4, 5, 5), {"C": 2}),
    "dilated": (lambda: nn.Conv2d(2, 5, (2, 3), dilation=(2, 1), bias=False), (1, 2, 8, 6), {}),
    "pointwise": (lambda: nn.Conv2d(10, 4, 1, 2), (2, 10, 5, 5), {}),
    "same": (lambda: nn.Conv2d(2, 4, (2, 4), padding="same"), (2, 2, 5, 6), {}),
    "tensorflow": (lambda: Conv2dSame(3, 4, 3, 2), (2, 3, 6, 7), {}),
}
"""Source, shape of its input, options: D mod C is 3, 0, 0, 3, 2, 1, 0, 1, 0, 0."""


def inputs_of(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(case, encoder="tree", calibrated=True, seed=0, **options):
    """A learned layer of a case, and its source."""
    build, shape, own = LAYERS[case]
    torch.manual_seed(seed)
    source = build()
    site = find_sites(nn.Sequential(source), torch.zeros(1, *shape[1:]))[0][0]
    all_options = {"K": 4, **own, **options}
    layer = make_operator(encoder, **all_options).build(site, source)
    if calibrated:
        layer.calibrate(
            im2col_reference(inputs_of((200, *shape[1:]), seed=7), site.geometry), seed=seed
        )
    return layer, source


def slow_rows(x, layer):
    """im2col by loops over every output, channel-major, zeros outside: [N, groups * D]."""
    g, x = layer.site.geometry, x.numpy()
    if g is None:
        return x.reshape(-1, layer.site.D)
    B, channels, height, width = x.shape
    left, _, top, _ = g.pads(height, width)
    OH, OW = g.output_size(height, width)
    rows = np.zeros((B, OH, OW, channels, *g.kernel_size), dtype=x.dtype)
    for (b, oy, ox, c, i, j), _ in np.ndenumerate(rows):
        y = oy * g.stride[0] + i * g.dilation[0] - top
        z = ox * g.stride[1] + j * g.dilation[1] - left
        if 0 <= y < height and 0 <= z < width:
            rows[b, oy, ox, c, i, j] = x[b, c, y, z]
    return rows.reshape(B * OH * OW, -1)


def slow_table(layer):
    """The table's float entries [G, C, K, M_g], quantized if the layer's are, by numpy."""
    options = layer.options
    lut = slow_lut(layer)
    if options.bits is None:
        return lut
    high, low = lut.max(2, keepdims=True), lut.min(2, keepdims=True)
    offset, reach = (high + low) / 2, (high - low) / 2 * float(layer.clip)
    over = {"layer": (0, 1, 2, 3), "channel": (1, 2), "codebook": (2, 3)}[options.scale]
    limit = 2 ** (options.bits - 1) - 1
    step = reach.max(over, keepdims=True) / limit
    step = np.where(step > 0, step, 1)
    return np.clip(np.round((lut - offset) / step), -limit, limit) * step + offset


def slow_lut(layer):
    """lut[g, c, k, m] = sum_v P[gc, k, v] W[m, column(c, v)], or the table itself if it is free."""
    if layer.options.parameterization == "free":
        return layer.lut.detach().double().numpy()
    G, blocks, D = layer.site.groups, layer.blocks, layer.site.D
    source = layer.encoder if layer.shares_prototypes else layer
    P = source.prototypes.detach().double().numpy()
    W = layer.weight.detach().double().numpy().reshape(G, -1, D)
    lut = np.zeros((G, blocks.C, layer.options.K, W.shape[1]))
    for (g, c, k, m), _ in np.ndenumerate(lut):
        gc = g * blocks.C + c
        start, width = blocks.starts[c], blocks.widths[c]
        if P.shape[2] == D and blocks.C > 1:  # prototypes that span all inputs
            start, width = 0, D
        lut[g, c, k, m] = P[gc, k, :width] @ W[g, m, start : start + width]
    return lut


def slow_product(layer, x):
    """y[n, m] = sum_c table[c, codes[n, c], m] + bias[m] by loops, in the layer's shape."""
    rows = slow_rows(x, layer)
    codes = layer.encoder.codes(torch.from_numpy(rows)).numpy()
    table = slow_table(layer)
    G, C, _, M = table.shape
    y = np.zeros((len(rows), G * M))
    for n in range(len(rows)):
        for g in range(G):
            for c in range(C):
                y[n, g * M : (g + 1) * M] += table[g, c, codes[n, g * C + c]]
    if layer.bias is not None:
        y += layer.bias.detach().numpy()
    y = torch.from_numpy(y)
    if layer.site.geometry is None:
        return y.reshape(*x.shape[:-1], -1)
    size = layer.site.geometry.output_size(*x.shape[2:])
    return y.reshape(len(x), *size, -1).permute(0, 3, 1, 2)
