"""Layers by look-up tables as ONNX functions: onnxruntime answers as the network does."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

import halut
from halut.export.onnx.runtime import run
from halut.export.onnx.target import convert
from halut.sites.calls import Call

TOLERANCE = 1e-4
"""Of the largest answer."""


def gap(network, x, folder, **options):
    """Of the exported network's answers from the network's, also to one sample alone."""
    exported = halut.export(network, x, to="onnx", folder=folder, **options)
    one = x[:1]
    (alone,) = run(exported.folder / "model.onnx", Call(one))
    with torch.no_grad():
        expected = network(one)
    assert float((alone - expected).abs().max() / expected.abs().max()) <= TOLERANCE
    return exported.manifest["difference"]["largest"]


def linear(config, **options):
    """Three linear layers, the middle one replaced, and a batch."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU())
    net.append(nn.Linear(12, 4))
    halut.replace_(net, config, [torch.randn(400, 8)], **options)
    return net.eval(), torch.randn(64, 8)


def conv(config, **window):
    """Three convolutions, the middle one, with that window, replaced, and a batch."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, **window), nn.ReLU())
    net.append(nn.Conv2d(8, 4, 1))
    halut.replace_(net, config, [torch.randn(16, 3, 13, 10)], keep_depthwise=False)
    return net.eval(), torch.randn(6, 3, 13, 10)


@pytest.mark.parametrize("K", [2, 4, 8, 16, 32, 256])
def test_trees_of_every_depth(K, tmp_path):
    assert gap(*linear(halut.Tree(K=K, C=3)), tmp_path / "out") <= TOLERANCE


WINDOWS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "1x1": {"kernel_size": 1},
    "strided": {"kernel_size": (3, 2), "stride": (2, 3), "padding": (0, 1)},
    "dilated": {"kernel_size": 3, "dilation": (1, 2), "padding": 2},
    "grouped": {"kernel_size": 3, "groups": 2},
    "depthwise": {"kernel_size": 3, "groups": 8, "padding": 1},
    "same": {"kernel_size": 2, "padding": "same"},
}


@pytest.mark.parametrize("window", WINDOWS)
def test_trees_of_every_window(window, tmp_path):
    assert gap(*conv(halut.Tree(K=8), **WINDOWS[window]), tmp_path / "out") <= TOLERANCE


def test_the_node_is_a_function_with_int8_tables():
    network, x = linear(halut.Tree(K=16))
    model = convert(network, Call(x), 18)
    (node,) = (n for n in model.graph.node if n.domain == "halut")
    assert node.op_type == "TreeLinear_K16"
    (function,) = model.functions
    assert {n.domain for n in function.node} == {""}
    tables = [t for t in model.graph.initializer if t.name in node.input and len(t.dims) == 4]
    assert [t.data_type for t in tables] == [onnx.TensorProto.INT8]
