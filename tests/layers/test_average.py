"""MADDNESS' averaging accumulator as an option: its value, its bias, and the exact gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.errors import HalutError
from halut.ops.table_quantization import average_accumulate
from halut.replace.operator_registry import make_operator
from halut.sites.find import site_of


def layer(average, C=8):
    torch.manual_seed(0)
    source = nn.Linear(32, 6)
    site = site_of("fc", source, 1)
    built = make_operator("tree", C=C, K=4, average=average).build(site, source)
    built.calibrate(torch.randn(512, 32))
    return built


def test_the_sum_is_the_averages_and_the_gradient_that_of_exact_sums():
    x = torch.randn(40, 32)
    grads = []
    for average in (None, 4):
        lut_layer = layer(average)
        y = lut_layer(x)
        y.backward(torch.ones_like(y))
        grads.append(lut_layer.lut.grad)
    torch.testing.assert_close(*grads)
    table = lut_layer.table(lut_layer.full_lut())
    codes = lut_layer.encoder.codes(x)
    sums = average_accumulate(codes, table.q[0], 4)
    expected = sums * table.output_scale() + table.folded_bias() + lut_layer.bias
    torch.testing.assert_close(lut_layer(x), expected)


def test_it_is_biased_upwards():
    x = torch.randn(2000, 32)
    exact, averaged = layer(None), layer(8)
    step = averaged.table(averaged.full_lut()).output_scale()
    with torch.no_grad():
        bias = ((averaged(x) - exact(x)) / step).mean()
    assert bias == pytest.approx(8 * 3 / 4, rel=0.35)  # C log2(group) / 4 table steps


@pytest.mark.parametrize("average", [0, 1, 3, 16])
def test_runs_that_do_not_divide_the_codebooks_are_refused(average):
    with pytest.raises(HalutError, match=r"fc has 8 codebooks: halut.average"):
        layer(average)


def test_it_needs_integer_tables():
    with pytest.raises(HalutError, match="needs integer tables"):
        make_operator("tree", bits=None, average=4)
