"""A contraction of a user's own: a rule about codecs, and the layer it becomes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import halut
from halut.codecs.contraction import Contraction, contractions
from halut.errors import HalutError
from halut.inference.codec_layers import DecodedCodecLayer
from halut.inference.lowering import inference_layers


class NarrowOnly(Contraction):
    """For weights of at most four bits."""

    @classmethod
    def refuses(cls, weight, activation):
        return None if weight["width"] <= 4 else "halut.weight.width must be in 2..4"


class NarrowLayer(DecodedCodecLayer):
    def __init__(self, layer):
        layer.contraction = "dense"
        super().__init__(layer)


@pytest.fixture
def narrow(monkeypatch):
    for registry, entry in ((contractions, NarrowOnly), (inference_layers, NarrowLayer)):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        registry.register("narrow")(entry)


def replaced(**options):
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), torch.randn(64, 8)
    config = halut.Integer(contraction="narrow", **options)
    halut.replace_(network, config, [x], keep_first=False, keep_last=False)
    return network.eval(), x


@pytest.mark.usefixtures("narrow")
def test_its_name_is_an_option_and_its_layer_is_prepared():
    network, x = replaced(width=4)
    prepared = halut.prepare(network)
    assert isinstance(prepared[0], NarrowLayer)
    assert torch.equal(prepared(x), network(x))
    assert {e.options["contraction"] for e in halut.plan_of(network).replaced} == {"narrow"}


@pytest.mark.usefixtures("narrow")
def test_codecs_that_it_refuses_are_named():
    with pytest.raises(HalutError, match=r"contraction=narrow: halut.weight.width must be in 2..4"):
        replaced(width=8)


def test_without_a_layer_it_stays_in_training(monkeypatch):
    monkeypatch.setattr(contractions, "_entries", {**contractions._entries, "narrow": NarrowOnly})
    with pytest.raises(HalutError, match=r"contraction 'narrow' has no inference form"):
        halut.prepare(replaced(width=4)[0])
