"""Inference layers of the codec family: weights decoded from their packed codes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.inference.base import InferenceLayer
from halut.layers.codec import CodecLayer, quantized_input
from halut.sites.find import exact_product


class DecodedCodecLayer(InferenceLayer):
    """What a trained CodecLayer answers, bit for bit: its weight and bias are their quantized
    values, and only the input is still quantized at every call. Nothing has a gradient."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: CodecLayer) -> None:
        super().__init__()
        if layer.contraction != "dense":
            raise HalutError(f"{layer.site.name}: only dense contractions have an inference form")
        self.site = layer.site
        weight, bias = restored(layer)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.activation_codec = copy.deepcopy(layer.activation_codec)

    def forward(self, input: Tensor) -> Tensor:
        self.check(input)
        q = quantized_input(self.activation_codec, input, self.site)
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return exact_product(q, self.weight.to(input.dtype), bias, self.site)


@torch.no_grad()
def restored(layer: CodecLayer) -> tuple[Tensor, Tensor | None]:
    """Weight [M, D] and bias [M] float32 from what the layer exports."""
    exported = layer.export()

    def tensor(role: str) -> Tensor:
        parts = {
            k.removeprefix(f"{role}."): v for k, v in exported.items() if k.startswith(f"{role}.")
        }
        codec = layer.factors().get(role)
        return parts["float"] if codec is None else codec.restore(parts)

    weight = tensor("weight").detach().transpose(1, 2).flatten(1).clone()
    if layer.bias is None:
        return weight, None
    return weight, tensor("bias").detach()[0].clone()  # no view of the layer's own
