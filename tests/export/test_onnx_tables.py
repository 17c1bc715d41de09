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


OTHERS = {
    "decision tree": halut.DecisionTree(K=8, C=3),
    "l2": halut.PQ(K=7, C=3),
    "l1": halut.PQ(K=8, C=3, metric="l1"),
    "chebyshev": halut.PQ(K=8, C=3, metric="chebyshev"),
    "output metric": halut.PQ(K=8, C=3, output_metric=True),
    "residual": halut.PQ(K=8, C=3, residual=2),
    "float table": halut.Tree(K=8, bits=None),
    "scale per codebook": halut.Tree(K=8, scale="codebook"),
    "4 bits": halut.PQ(K=8, bits=4, scale="layer"),
    "derived": halut.PQ(K=8, parameterization="derived"),
    "hadamard": halut.Tree(K=8, transform="hadamard"),
    "permuted": halut.PQ(K=8, C=4, transform="permute"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_encoders_and_tables(name, tmp_path):
    assert gap(*linear(OTHERS[name]), tmp_path / "out") <= TOLERANCE


@pytest.mark.parametrize("name", ["decision tree", "l2", "chebyshev", "output metric", "residual"])
def test_other_encoders_of_grouped_windows(name, tmp_path):
    window = {"kernel_size": 3, "groups": 2, "stride": 2}
    assert gap(*conv(OTHERS[name], **window), tmp_path / "out") <= TOLERANCE


@pytest.mark.parametrize("opset", [17, 24])
def test_the_oldest_and_the_newest_operators(opset, tmp_path):
    config = halut.PQ(K=8, C=3, metric="chebyshev")
    assert gap(*conv(config, **WINDOWS["grouped"]), tmp_path / "out", opset=opset) <= TOLERANCE


def test_inputs_of_any_size_and_rank(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 4))
    x = 1e30 * torch.randn(6, 3, 8)
    halut.replace_(net, halut.PQ(K=4, C=3), [x])
    assert float(net[1].encoder.unit) > 1
    assert gap(net.eval(), x, tmp_path / "out") <= TOLERANCE


def test_the_node_is_a_function_with_int8_tables():
    network, x = linear(halut.Tree(K=16))
    model = convert(network, Call(x), 18)
    (node,) = (n for n in model.graph.node if n.domain == "halut")
    assert node.op_type == "TreeLinear_K16"
    (function,) = model.functions
    assert {n.domain for n in function.node} == {""}
    tables = [t for t in model.graph.initializer if t.name in node.input and len(t.dims) == 4]
    assert [t.data_type for t in tables] == [onnx.TensorProto.INT8]
