"""A trained network made ready to answer."""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, fx, nn

from halut import surgery
from halut.errors import HalutError
from halut.inference.fold import fold, foldable, traced
from halut.inference.forms import frozen
from halut.inference.int8 import int8_network
from halut.inference.merge import merge
from halut.inference.packed import packed
from halut.layers.base import LUTLayer
from halut.layers.codec import CodecLayer

logger = logging.getLogger(__name__)


def prepare(
    network: nn.Module, example: Tensor | None = None, calibration: Tensor | None = None
) -> nn.Module:
    """A copy of `network` for inference, `network` itself unchanged.

    Its layers by look-up tables become PackedLayers; batch norms after a convolution, exact or
    not, become part of it, and so does a ReLU after a packed one; layers of one input and one
    encoder (halut.sharing) become one layer. Layers of codecs hold their quantised weights, as
    packed bits with contraction=popcount, still quantise their inputs, and keep what follows them:
    a norm folded into quantised weights would move them off their grid. The network is read by
    torch.fx for all that, with every optional argument of its forward at its default; where
    torch.fx cannot follow the forward, nothing of this is done and the log says so. `example`, an
    input, guards against a forward that takes another path when traced: unless the traced network
    answers it bit for bit as the untraced one does, nothing is folded either. With an example, a
    tensor that is added to the answer of a packed convolution is added there.

    With `calibration`, a batch of inputs, activations travel in 8 bits where that serves: a
    convolution by tables reads and answers uint8, and exact layers run by oneDNN's INT8 operators
    (on CPUs, where torch has them), their weights rounded. The ranges are those of the batch. Such
    a network runs on the CPU and in float32 only; a network that torch.fx cannot follow is refused.

    The answers are the network's in evaluation mode up to float rounding (a rounding may move an
    input across a threshold, and then one code differs). The copy has no gradient, takes float32,
    float16 or bfloat16 inputs as its exact layers do, and can be compiled, exported and saved by
    state dict: its twin is made by preparing the same network. Raises HalutError for a layer that
    has no inference form (halut.average).
    """
    network = with_packed_layers(copy.deepcopy(network).eval()).requires_grad_(False)
    if calibration is not None:
        return _in_bytes(network, calibration)
    if not foldable(network):
        return network
    graph = _faithful(network, example)
    return network if graph is None else fold(merge(fold(graph)), example)


def with_packed_layers(network: nn.Module) -> nn.Module:
    """The network itself, its replaced layers in the form they have for inference."""
    for name, layer in list(surgery.replaced_layers(network)):
        if isinstance(layer, LUTLayer):
            surgery.place(network, name, packed(layer))
        elif isinstance(layer, CodecLayer):
            surgery.place(network, name, frozen(layer))
    return network


def _in_bytes(network: nn.Module, calibration: Tensor) -> nn.Module:
    if calibration.device.type != "cpu" or calibration.dtype != torch.float32:
        raise HalutError("calibration must be a batch of float32 inputs on the CPU")
    graph = _faithful(network, calibration)
    if graph is None:
        raise HalutError(
            f"8-bit activations need a network that torch.fx can follow, {type(network).__name__} "
            "is none (the log says why): prepare it without calibration"
        )
    with torch.no_grad():
        return int8_network(merge(fold(graph)), calibration)[0]


def _faithful(network: nn.Module, example: Tensor | None) -> fx.GraphModule | None:
    """The traced network, or None if it cannot be traced, or would answer the example otherwise."""
    # Tracing runs the network's own code, on stand-ins: whatever that raises is the reason.
    try:
        graph = traced(network)
        if example is None:
            return graph
        with torch.no_grad():
            ours, theirs = graph(example), network(example)
        if not isinstance(theirs, Tensor) or torch.equal(ours, theirs):
            return graph
        reason = "it takes another path when traced"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    kind = type(network).__name__
    logger.warning("torch.fx cannot follow %s, its batch norms are not folded: %s", kind, reason)
    return None
