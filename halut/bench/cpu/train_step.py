"""Benchmark of a layer's training step: forward and backward, tables against the exact layer."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from halut.bench import inputs
from halut.bench.cpu.layer import forced
from halut.bench.cpu.table_parts import one_hot_product
from halut.bench.method import Method
from halut.bench.suites import Case
from halut.encoders.tree import TreeEncoder, leaf_assignment
from halut.layers import LUTLayer
from halut.ops.core import dispatch

ONE_HOT_OUTPUTS = 128
"""Outputs up to which the one-hot step is timed; it needs N * C * K floats several times."""


def methods(case: Case, device: str = "cpu") -> list[Method]:
    """Ours, the exact layer in both memory formats, and the one-hot einsum."""
    x, exact = inputs.activations(case).to(device), inputs.exact_layer(case).to(device)
    layer = copy.deepcopy(inputs.learned_layer(case)).to(device).train()
    ours = step(layer, x)
    run = forced("torch", ours)
    reference = gradients(layer, x, run)
    candidates = [Method("ours", ours, reference, 1e-4, lambda: gradients(layer, x, ours))]
    if dispatch.implementations(device)["accumulate"] != "torch":
        answer = lambda: gradients(layer, x, run)  # noqa: E731
        candidates.append(Method("ours_torch", run, reference, 1e-4, answer))
    candidates += exact_steps(exact, x)
    if case.shape["M"] <= ONE_HOT_OUTPUTS:
        candidates.append(one_hot_step(layer, x))
    return candidates


def exact_steps(exact: nn.Module, x: Tensor) -> list[Method]:
    """nn.Conv2d's own step, contiguous and channels_last."""
    channels_last = x.detach().clone(memory_format=torch.channels_last)
    other = copy.deepcopy(exact).to(memory_format=torch.channels_last)
    plain, last = step(exact, x), step(other, channels_last)
    expected = gradients(exact, x, plain)
    answer = lambda: gradients(other, channels_last, last)  # noqa: E731
    return [
        Method("exact_float32", plain),
        Method("exact_float32_channels_last", last, expected, 1e-3, answer),
    ]


def step(layer: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Forward and backward into x and every parameter, gradients not carried over."""
    x.requires_grad_()
    layer.requires_grad_()
    grad = torch.randn(layer(x).shape, generator=torch.Generator().manual_seed(1)).to(x.device)

    def run() -> Tensor:
        x.grad = None
        for parameter in layer.parameters():
            parameter.grad = None
        y = layer(x)
        y.backward(grad)
        return y

    return run


def gradients(layer: nn.Module, x: Tensor, run: Callable[[], Tensor]) -> Tensor:
    """The step's answer and every gradient, each over its own norm, in one vector."""
    outputs = [run(), x.grad, *(parameter.grad for parameter in layer.parameters())]
    return torch.cat([_unit(value) for value in outputs if value is not None])


def _unit(value: Tensor) -> Tensor:
    flat = value.detach().reshape(-1).double()
    return flat / flat.norm().clamp_min(1e-30)


def one_hot_step(layer: LUTLayer, x: Tensor) -> Method:
    """The same step by one-hot codes, a dense product and autograd, on the gathered inputs."""
    lut = layer.full_lut().detach().clone().requires_grad_()
    inputs = (
        layer.encoder.gather_columns(*layer.encoder_input(x))
        .detach()
        .contiguous()
        .clone()
        .requires_grad_()
    )
    assert isinstance(layer.encoder, TreeEncoder)
    thresholds = layer.encoder.thresholds
    C, K = thresholds.shape[0], thresholds.shape[1] + 1
    levels = [node.bit_length() - 1 for node in range(1, K)]
    codes = layer.encoder.encode(inputs)
    grad = torch.ones(inputs.shape[0], lut.shape[3], device=inputs.device)
    hard = torch.nn.functional.one_hot(codes.long(), K).float()

    def run() -> Tensor:
        lut.grad = inputs.grad = thresholds.grad = None
        node_inputs = inputs.view(-1, C, K.bit_length() - 1)[:, :, levels]
        soft = leaf_assignment(node_inputs, thresholds, layer.tau)
        y = torch.einsum("nck,ckm->nm", soft + (hard - soft).detach(), lut[0])
        y.backward(grad)
        return y

    return Method("one_hot_einsum", run, one_hot_product(codes, lut[0].detach()), 1e-4)
