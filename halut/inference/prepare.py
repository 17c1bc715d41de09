"""Preparation of a trained network for inference."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from halut.errors import HalutError
from halut.inference.base import InferenceLayer, refuse_training
from halut.inference.fold import Step, fold
from halut.inference.int8 import holds_products, keep_in_floats, require_cpu, verified_int8
from halut.inference.lowering import lower
from halut.inference.regions import converted, faithful
from halut.inference.table_layers import packed
from halut.inference.trace import Arguments, foldable
from halut.inference.verify import check_code, check_layers, probes, verified_folding
from halut.layers.codec import CodecLayer
from halut.layers.lut import LUTLayer
from halut.option import unknown
from halut.replace import swap
from halut.sites.calls import Call, example_call
from halut.sites.eval_mode import eval_mode

logger = logging.getLogger(__name__)


def prepare(
    network: nn.Module,
    example: Any = None,
    calibration: Tensor | None = None,
    keep: Sequence[str] = (),
) -> nn.Module:
    """A copy of `network` for inference, `network` itself unchanged.

    Its layers by look-up tables become PackedLayers; batch norms after a convolution, exact or
    not, become part of it, and so does a ReLU after a packed one; layers of one input and one
    encoder (halut.replace.sharing) become one layer. Layers of codecs hold their quantized weights,
    as packed bits with contraction=popcount, still quantize their inputs, and keep what follows
    them: a norm folded into quantized weights would move them off their grid. The network is read
    by torch.fx for all that, with every optional argument of its forward at its default.

    With `example`, a batch of inputs (a Tensor, a tuple of arguments, a mapping of keywords or a
    halut.Call), a tensor that is added to the answer of a packed convolution is added there,
    modules that torch.fx cannot follow are called whole, and everything is verified against the
    network, on the example and on batches of other sizes (those that the network takes): a layer
    whose form answers otherwise is refused by name, a step that changes an answer is left out, and
    so is all folding where the traced network answers otherwise than the untraced one. Without an
    example, nothing is folded in a network that torch.fx cannot follow. The log says what was left
    out.

    With `calibration`, a batch of a network's one input, a Tensor, activations travel in 8 bits as
    well where that serves: a convolution by tables reads and answers uint8, and exact layers run by
    oneDNN's INT8 operators (on CPUs, where torch has them), their weights rounded. The ranges are
    those of the batch. A step of bytes whose answer is further from the floats' than rounding
    explains stays in floats, and so do the exact layers named in `keep`. Such a network runs on the
    CPU and in float32 only; one of which torch.fx follows nothing is refused.

    The answers are the network's in evaluation mode up to float rounding (a rounding may move an
    input across a threshold, and then one code differs). The copy has no gradient and refuses
    inputs that want one, takes float32, float16 or bfloat16 inputs as its exact layers do, and can
    be compiled, exported and saved by state dict: its twin is made by preparing the same network.
    Raises HalutError for a layer that has no inference form (halut.average), for an example that
    the network does not take, and for a name in `keep` that no exact layer has.

    >>> int8 = prepare(network, calibration=batch, keep=["conv1", "fc"])
    """
    if calibration is not None:
        if not isinstance(calibration, Tensor):
            raise HalutError(
                "calibration must be a Tensor, the network's one input, got "
                f"{type(calibration).__name__}: networks of other inputs are prepared in floats"
            )
        require_cpu(network, calibration)
        if calibration.dtype != torch.float32:
            raise HalutError(
                f"calibration must be a batch of float32 inputs, got {calibration.dtype}"
            )
    elif keep:
        raise HalutError("keep says what stays in floats of a network in bytes: give calibration=")
    ready = with_packed_layers(copy.deepcopy(network).eval())
    for name in keep:
        keep_in_floats(_exact_layer(ready, name))
    _freeze(ready)
    with torch.no_grad():
        batches = _batches(network, ready, example, calibration)
        if calibration is not None:
            ready = _in_bytes(ready, batches)
        elif foldable(ready):
            ready = _folded(ready, batches)
    _freeze(ready.eval())
    ready.register_forward_pre_hook(refuse_training, with_kwargs=True)
    return ready


def with_packed_layers(network: nn.Module) -> nn.Module:
    """The network itself, its replaced layers in the form they have for inference."""
    for name, layer in list(swap.replaced_layers(network)):
        if isinstance(layer, LUTLayer):
            form: InferenceLayer = packed(layer)
        elif isinstance(layer, CodecLayer):
            form = lower(layer)
        else:
            continue
        form.like = nn.Parameter(layer.weight.detach().new_full((), torch.nan), False)
        swap.replace_module(network, name, form.eval())
    return network


def _exact_layer(network: nn.Module, name: str) -> nn.Module:
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    if name not in layers:
        raise HalutError(f"keep: {unknown('exact layer', name, layers)}")
    return layers[name]


def _freeze(network: nn.Module) -> None:
    """No tensor of the network asks for gradients."""
    network.requires_grad_(False)
    for buffer in network.buffers():
        if buffer.requires_grad:
            buffer.detach_()


def _batches(
    network: nn.Module, ready: nn.Module, example: Any, calibration: Tensor | None
) -> list[Call]:
    """What everything is verified on: batches that the network takes, the calibration first."""
    source = calibration if calibration is not None else example
    if source is None:
        return []
    call = example_call(network, source)
    batches = probes(call)
    if calibration is not None:
        batches = [call, *(probe for probe in batches if probe.samples != call.samples)]
    with eval_mode(network):
        calls = check_layers(network, ready, batches)
        check_code(network, ready, calls)
    if calibration is not None and calls[0] is not call:
        raise HalutError("the network cannot take the batch it is to be calibrated on")
    return calls


def _folded(network: nn.Module, batches: list[Call]) -> nn.Module:
    if not batches:
        graph, reason = faithful(network, [])
        if graph is not None:
            return fold(graph)
        _warn(network, reason)
        return network

    def convert(graph: fx.GraphModule, calls: Sequence[Arguments]) -> nn.Module:
        folding, omitted = verified_folding(graph, calls)
        _report(omitted)
        return folding.network

    ready, count, reason = converted(network, batches, foldable, convert)
    if reason:
        _warn(network, reason, count)
    return ready


def _in_bytes(network: nn.Module, batches: list[Call]) -> nn.Module:
    def convert(graph: fx.GraphModule, calls: Sequence[Arguments]) -> nn.Module:
        folding, omitted = verified_folding(graph, calls, additions=False)
        converted, in_floats = verified_int8(folding.network, calls)
        _report([*omitted, *(("8 bits", name) for name in in_floats)])
        return converted

    ready, count, reason = converted(network, batches, holds_products, convert)
    if not count:
        raise HalutError(
            f"8-bit activations need a network that torch.fx can follow, {type(network).__name__} "
            f"is none ({reason}): prepare it without calibration"
        )
    if reason:
        _warn(network, reason, count)
    return ready


def _report(omitted: Sequence[Step]) -> None:
    for kind, name in omitted:
        logger.info("not prepared, as the answer would change: %s at %s", kind, name)


def _warn(network: nn.Module, reason: str, count: int = 0) -> None:
    kind, rest = (
        type(network).__name__,
        f"{count} of its modules are prepared alone" if count else "its batch norms are not folded",
    )
    logger.warning("torch.fx cannot follow %s, %s: %s", kind, rest, reason)
