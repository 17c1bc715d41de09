"""Layers that count bits answer what the product of decoded values answers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.errors import HalutError
from halut.inference import prepare
from halut.inference.bit_layers import BitLayer
from halut.inference.codec_layers import DecodedCodecLayer
from halut.ops import cpu, forced
from tests.layers.test_codec_layers import SOURCES, built

UNSIGNED = {"name": "binary", "unsigned": True}
CODECS = [
    ("binary", {}),
    ("binary", {"unsigned": True}),
    ("binary_scaling", {"per": "tensor"}),
    ("binary_residual", {"levels": 3}),
    ("lqnet", {"activation": {"width": 3}}),
    ("lqnet", {"weight": UNSIGNED, "bias": {"name": "integer"}}),
    ("abcnet", {"activation": {"width": 5}}),
    ("abcnet", {"weight": UNSIGNED, "activation": {"width": 2}}),
]


def bits(kind, codec, **options):
    _, layer, x = built(kind, codec, contraction="popcount", **options)
    return layer.eval().requires_grad_(False), BitLayer(layer), x


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(("codec", "options"), CODECS)
def test_counts_are_the_dense_product(kind, codec, options):
    """Equal up to rounding: 1e-5 of the largest answer. A wrong code would be off by 1e-2."""
    layer, counting, x = bits(kind, codec, **options)
    expected = layer(x)
    near = {"rtol": 0, "atol": 1e-5 * float(expected.abs().max())}
    actual = counting(x)
    torch.testing.assert_close(actual, expected, **near)
    with forced("torch"):
        assert torch.equal(counting(x), actual)
    for level in cpu.cpu_capabilities():
        with cpu.use_cpu_capability(level):
            assert torch.equal(counting(x), actual), level
    if x.ndim == 4:
        assert torch.equal(counting(x.contiguous(memory_format=torch.channels_last)), actual)


def test_the_pad_code_is_counted_out_exactly():
    """Of signs, answers are integers: nine inputs of one pixel amid padding, no rounding."""
    torch.manual_seed(0)
    for padding in (1, (0, 2), "same"):
        layer = nn.Conv2d(9, 5, 3, padding=padding, bias=False)
        SOURCES["signs"] = (lambda layer=layer: layer, (2, 9, 4, 3))
        dense, counting, _ = bits("signs", "binary")
        for size in ((1, 3), (4, 3), (7, 6)):
            x = torch.randn(2, 9, *size)
            if size == (1, 3) and padding == (0, 2):
                continue
            assert torch.equal(counting(x), dense(x))
            assert bool((counting(x) == counting(x).round()).all())
    del SOURCES["signs"]


def test_thresholds_decide_as_the_codec_does():
    """Inputs on thresholds and their neighbors: the codes are the same ones."""
    for codec in ("lqnet", "abcnet", "binary", "binary_residual"):
        layer, counting, _ = bits("linear", codec)
        t = counting.thresholds if counting.encoder is None else layer.activation_codec.g.cumsum(0)
        around = torch.stack([torch.nextafter(t, t - 1), t, torch.nextafter(t, t + 1)]).flatten()
        x = torch.cat([around, -around, torch.zeros(1), -torch.zeros(1)])[:, None].expand(-1, 20)
        expected = layer(x)
        scale = float(expected.abs().max())
        torch.testing.assert_close(counting(x), expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", ["linear", "grouped"])
@pytest.mark.parametrize("codec", ["abcnet", "binary_residual"])
def test_prepared_networks_count_and_can_be_exported(kind, codec):
    layer, _, x = bits(kind, codec)
    network = nn.Sequential(layer)
    ready = prepare(network, x)
    assert any(isinstance(module, BitLayer) for module in ready.modules())
    expected = ready(x)
    program = torch.export.export(ready, (x,))
    assert torch.equal(program.module()(x), expected)
    twin = prepare(network)
    twin.load_state_dict(ready.state_dict())
    assert torch.equal(twin(x), expected)
    half = ready(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16


def test_training_multiplies_decoded_values():
    _, layer, x = built("conv", "abcnet", contraction="popcount")
    _, dense, _ = built("conv", "abcnet")
    assert torch.equal(layer(x), dense(x))
    layer(x).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    assert layer.activation_codec.v.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("codec", "options", "says"),
    [
        ("integer", {}, "weight must be bit planes, one of: abcnet, binary"),
        ("binary", {"activation": None}, "activation must be bit planes.*got null"),
        ("binary", {"activation": {"name": "mxint8"}}, "got mxint8"),
        ("binary_scaling", {"per": "channel"}, "choose activation.per=tensor"),
    ],
)
def test_what_has_no_bit_planes_is_refused(codec, options, says):
    with pytest.raises(HalutError, match=says):
        built("linear", codec, contraction="popcount", **options)


def test_the_other_inference_form_refuses():
    _, layer, _ = built("linear", "binary")
    assert isinstance(prepare(nn.Sequential(layer))[0], DecodedCodecLayer)
    layer.contraction = object()
    with pytest.raises(HalutError, match="only dense contractions"):
        DecodedCodecLayer(layer)
