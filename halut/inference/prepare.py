"""A trained network made ready to answer."""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, fx, nn

from halut import surgery
from halut.inference.fold import fold, foldable, traced
from halut.inference.merge import merge
from halut.inference.packed import packed
from halut.layers.base import LUTLayer

logger = logging.getLogger(__name__)


def prepare(network: nn.Module, example: Tensor | None = None) -> nn.Module:
    """A copy of `network` for inference, `network` itself unchanged.

    Its layers by look-up tables become PackedLayers; batch norms after a convolution, exact or
    not, become part of it, and so does a ReLU after a packed one; layers of one input and one
    encoder (halut.sharing) become one layer. The network is read by torch.fx for that, with every
    optional argument of its forward at its default; where torch.fx cannot follow the forward,
    nothing of this is done and the log says so. `example`, an input, guards against
    a forward that takes another path when traced: unless the traced network answers it bit for
    bit as the untraced one does, nothing is folded either.

    The answers are the network's in evaluation mode up to float rounding (a rounding may move an
    input across a threshold, and then one code differs). The copy has no gradient, takes float32,
    float16 or bfloat16 inputs as its exact layers do, and can be compiled, exported and saved by
    state dict: its twin is made by preparing the same network. Raises HalutError for a layer that
    has no inference form (halut.average).
    """
    network = copy.deepcopy(network).eval()
    for name, layer in list(surgery.replaced_layers(network)):
        if isinstance(layer, LUTLayer):
            surgery.place(network, name, packed(layer))
    network.requires_grad_(False)
    if not foldable(network):
        return network
    graph = _faithful(network, example)
    return network if graph is None else merge(fold(graph))


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
