"""Slow, obvious forms of number formats, and how far a codec is from the values."""

from __future__ import annotations

import math

import torch

from halut.codecs import Coded, Layout, codecs


def make(name, x, role="weight", **options):
    """The codec calibrated on x [.., D], seen as one output's weights or as activations."""
    kind = codecs[name]
    if role == "weight":
        layout = Layout("weight", (x.shape[0], 1, x.shape[-1]))
        x = x.view(layout.shape)
    else:
        layout = Layout("activation", (1, x.shape[-1]))
        x = x.view(-1, *layout.shape)
    codec = kind(layout, kind.Config(**options))
    codec.calibrate(x)
    return codec, x


def quantized(name, x, role="weight", **options):
    x = torch.as_tensor(x, dtype=torch.float32)
    rows = x if x.ndim == 2 else x[None]
    codec, values = make(name, rows, role, **options)
    return codec.quantize(values).view(x.shape)


def sqnr(name, x, **options):
    """Signal to quantization noise in dB."""
    q = quantized(name, x, **options).double()
    return 10 * math.log10(float(x.double().square().sum() / (q - x.double()).square().sum()))


def normal(N=100_000, sigma=0.05, seed=0):
    return torch.randn(N, generator=torch.Generator().manual_seed(seed)) * sigma


def every_value(codec):
    """(code, value) of all codes, ordered by value; scales as the options say."""
    codes = torch.arange(2**codec.width, dtype=torch.int32)
    if codec.signed:
        codes = codes - 2 ** (codec.width - 1)
    scales = codec.scales(torch.zeros(codec.layout.shape))
    values = codec.decode(Coded(codes.view(1, 1, -1), scales)).flatten()
    return sorted(zip(values.tolist(), codes.tolist(), strict=True))


def nearest(x, values):
    """Of all values the nearest to x; the two nearest of a tie."""
    least = min(abs(v - x) for v in values)
    return {v for v in values if abs(v - x) == least}


def ieee(sign, exponent, mantissa, e, m):
    """The value of the fields of a minifloat, from its definition."""
    bias = 2 ** (e - 1) - 1
    if exponent == 0:
        return sign * mantissa / 2**m * 2.0 ** (1 - bias)
    return sign * (1 + mantissa / 2**m) * 2.0 ** (exponent - bias)


def denorm(sign, exponent, mantissa, e, m):
    return sign * mantissa / 2**m * 2.0 ** (exponent - (2 ** (e - 1) - 1))
