"""The target `onnx`: the network with dynamic batch as model.onnx, run by onnxruntime."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
import onnxscript
import torch
from onnx import ModelProto
from torch import nn
from torch.utils._pytree import tree_leaves

from halut.errors import HalutError, message_of
from halut.export.difference import difference
from halut.export.onnx.bit_operators import table
from halut.export.onnx.codec_nodes import CodecNodes
from halut.export.onnx.node import Nodes
from halut.export.onnx.quantizers import STYLES
from halut.export.onnx.runtime import run
from halut.export.onnx.table_nodes import TableNode
from halut.export.targets import Written
from halut.export.tracing import with_open_batch
from halut.inference.base import InferenceLayer
from halut.inference.verify import answer_of
from halut.io import write_bytes
from halut.layers.codec import CodecLayer
from halut.layers.lut import LUTLayer
from halut.option import between, choice, option
from halut.replace.swap import replaced_layers
from halut.sites.calls import Call
from halut.sites.modules import replace_module

FILE = "model.onnx"
OLDEST, NEWEST = 17, 24
"""Opsets that are written."""


@dataclass(kw_only=True)
class Options:
    """What is written."""

    opset: int = option(18, "version of the standard operators, 17 to 24")
    codecs: str = option("qdq", "integers as pairs of standard nodes, or QONNX's", choices=STYLES)

    def __post_init__(self) -> None:
        choice("onnx.codecs", self.codecs, STYLES)
        between("onnx.opset", self.opset, OLDEST, NEWEST)


def write(network: nn.Module, example: Call, folder: Path, options: Options) -> Written:
    """model.onnx, which onnxruntime runs on the example and on its first sample alone."""
    model = convert(network, example, options.opset, options.codecs)
    write_bytes(folder / FILE, model.SerializeToString())
    expected = answer_of(network, example)
    one = example.head(1)
    difference(run(folder / FILE, one), tree_leaves(answer_of(network, one)), 1)
    found = difference(run(folder / FILE, example), tree_leaves(expected), example.samples)
    versions = {m.__name__: m.__version__ for m in (onnx, onnxruntime, onnxscript)}
    return Written(found, versions)


def convert(network: nn.Module, example: Call, opset: int = 18, codecs: str = "qdq") -> ModelProto:
    """The network in evaluation mode as an ONNX model with a dynamic batch.

    Every replaced layer is a node of the domain `halut`, whose body is a function of the model;
    everything else is what torch.onnx makes of it.
    """
    if any(isinstance(module, InferenceLayer) for module in network.modules()):
        raise HalutError(
            "a prepared network has no ONNX form: export the one that it was prepared from"
        )
    nodes = with_nodes(copy.deepcopy(network), codecs)
    model = _exported(nodes, example, opset)
    _strip(model)
    written = next(each.version for each in model.opset_import if each.domain == "")
    if written != opset:
        raise HalutError(
            f"onnx.opset={opset}: an operator of {type(network).__name__} needs {written}"
        )
    functions = {
        (function.domain, function.name): function.proto(opset)
        for module in nodes.modules()
        if isinstance(module, Nodes)
        for function in module.functions
    }
    model.functions.extend(functions[name] for name in sorted(functions))
    onnx.checker.check_model(model)
    return model


def _strip(model: ModelProto) -> None:
    """Leave out what the exporter notes of its sources: stacks of calls, paths of this machine."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
    for field in ("doc_string", "metadata_props"):
        model.graph.ClearField(field)
        model.ClearField(field)


def with_nodes(network: nn.Module, codecs: str) -> nn.Module:
    """The network itself, its replaced layers in the form that becomes a node."""
    for name, layer in list(replaced_layers(network)):
        if isinstance(layer, LUTLayer):
            replace_module(network, name, TableNode(layer))
        elif isinstance(layer, CodecLayer):
            replace_module(network, name, CodecNodes(layer, codecs))
    return network.eval()


def _exported(network: nn.Module, example: Call, opset: int) -> ModelProto:
    call, shapes = with_open_batch(network, example)
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                call.args,
                kwargs=call.kwargs,
                dynamo=True,
                dynamic_shapes=shapes,
                opset_version=opset,
                custom_translation_table=table(),
                verbose=False,
            )
        except Exception as error:
            reason: BaseException = error
            while reason.__cause__ is not None:
                reason = reason.__cause__
            raise HalutError(
                f"torch.onnx cannot export {type(network).__name__}: {message_of(reason)[:300]}"
            ) from error
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' progress and advice left out."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)
