"""Prepared MXINT8 layers: a weight in bytes that answers as the floats would."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.inference.codec_layers import DecodedCodecLayer
from halut.inference.lowering import lower
from halut.inference.mxint8 import Mxint8Layer
from halut.replace.operator_registry import make_operator
from halut.sites.find import find_sites

SOURCES = {
    "linear": (lambda: nn.Linear(70, 7), (3, 5, 70)),
    "grouped": (lambda: nn.Conv2d(80, 6, 3, groups=2, bias=False), (2, 80, 6, 5)),
}


@pytest.mark.parametrize("activation", [None, {"name": "mxint8"}])
@pytest.mark.parametrize("kind", SOURCES)
def test_answers_are_those_of_the_floats(kind, activation):
    torch.manual_seed(0)
    make, shape = SOURCES[kind]
    source, x = make().eval(), torch.randn(shape)
    site = find_sites(nn.Sequential(source), x[:1])[0][0]
    layer = make_operator("mxint8", activation=activation).build(site, source)
    layer.calibrate(torch.randn(4, site.D * site.groups))
    prepared = lower(layer)
    assert isinstance(prepared, Mxint8Layer)
    assert torch.equal(prepared(x), layer(x))
    assert torch.equal(prepared.decoded(), layer.quantized_weight())
    state = prepared.state_dict()
    assert (state["codes"].dtype, state["scales"].dtype) == (torch.int8, torch.uint8)
    assert state["codes"].numel() == site.weights
    assert (
        state["scales"].numel() == site.weights // (site.D // site.taps) * {70: 3, 360: 2}[site.D]
    )
    wide = DecodedCodecLayer(layer).state_dict()["weight"]
    narrow = sum(state[k].numel() * state[k].element_size() for k in ("codes", "scales"))
    assert wide.numel() * wide.element_size() / narrow > 3.5
    half = prepared.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    expected = layer(x.bfloat16().float())  # of the same rounded inputs
    assert (half.float() - expected).norm() < 2**-8 * expected.norm()
