"""Layers by codecs as ONNX: onnxruntime answers as the network does, in both styles."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

import halut
from halut.export.onnx.runtime import run
from halut.export.onnx.target import convert
from halut.sites.calls import Call
from tests.export.test_onnx_tables import TOLERANCE, conv, gap, linear

CODECS = {
    "integer": halut.Integer(),
    "integer of 4 bits": halut.Integer(width=4),
    "integer per channel": halut.Integer(width=5, per="channel"),
    "integer per block": halut.Integer(per="block"),
    "fixed point": halut.Integer(width=8, fraction=4),
    "integer of 16 bits": halut.Integer(width=16),
    "binary": halut.Binary(),
    "binary scaling": halut.BinaryScaling(),
    "binary residual": halut.BinaryResidual(),
    "abcnet": halut.ABCNet(),
    "lqnet": halut.LQNet(),
    "log": halut.Log(),
    "minifloat_ieee": halut.MinifloatIEEE(),
    "minifloat_denorm": halut.MinifloatDenorm(),
    "block_fp": halut.BlockFP(),
    "block_minifloat": halut.BlockMinifloat(),
    "block_log": halut.BlockLog(),
    "mxint8": halut.MXINT8(),
    "prune": halut.Prune(),
    "sign_magnitude": halut.SignMagnitude(),
}


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_of_a_convolution(name, tmp_path):
    network, x = conv(CODECS[name], kernel_size=3, groups=2, padding=1)
    assert gap(network, x, tmp_path / "out") <= TOLERANCE


@pytest.mark.parametrize(
    "name", [name for name in CODECS if name.startswith(("int", "bin", "abc"))]
)
def test_qonnx_nodes_of_a_convolution(name, tmp_path):
    network, x = conv(CODECS[name], kernel_size=3, groups=2, padding=1)
    assert gap(network, x, tmp_path / "out", codecs="qonnx") <= TOLERANCE


@pytest.mark.parametrize("style", ["qdq", "qonnx"])
@pytest.mark.parametrize("name", ["integer per channel", "lqnet", "binary", "mxint8"])
def test_codecs_of_linear_layers(name, style, tmp_path):
    network, x = linear(CODECS[name])
    assert gap(network, x[:, None].expand(-1, 3, -1), tmp_path / "out", codecs=style) <= TOLERANCE


def test_integer_weights_stay_int8_codes():
    network, x = linear(halut.Integer())
    model = convert(network, Call(x))
    operators = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    codes = [t for t in model.graph.initializer if t.name.startswith("2.") and len(t.dims) == 2]
    assert [t.data_type for t in codes] == [onnx.TensorProto.INT8]


@pytest.mark.parametrize(
    ("name", "operator"),
    [("integer", "IntQuant"), ("binary", "BipolarQuant"), ("lqnet", "MultiThreshold")],
)
def test_qonnx_itself_answers_the_same(name, operator):
    core = pytest.importorskip("qonnx.core.onnx_exec")
    wrapper = pytest.importorskip("qonnx.core.modelwrapper")
    network, x = conv(CODECS[name], kernel_size=3)
    model = convert(network, Call(x), codecs="qonnx")
    assert operator in {node.op_type for node in model.graph.node}
    del model.functions[:]  # its own operators, not ours
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = len(x)
    wrapped = wrapper.ModelWrapper(model)
    (answer,) = core.execute_onnx(wrapped, {model.graph.input[0].name: x.numpy()}).values()
    with torch.no_grad():
        expected = network(x)
    gap = (torch.from_numpy(answer) - expected).abs().max() / expected.abs().max()
    assert float(gap) <= TOLERANCE


class Bits(nn.Module):
    def forward(self, x):
        shifts = torch.arange(x.shape[1], dtype=torch.int32) % 24
        bits = x.abs().view(torch.int32)
        return bits, bits >> shifts, (bits >> 23 << 23).view(torch.float32)


def test_the_bits_of_floats_of_every_size(tmp_path):
    torch.manual_seed(0)
    exponents = torch.arange(-149, 128)
    powers = torch.ldexp(torch.ones(()).double(), exponents).float()
    inf = torch.full_like(powers, torch.inf)
    near = [torch.nextafter(powers, -inf), powers, torch.nextafter(powers, inf)]
    x = torch.cat([*near, powers * (1 + torch.rand(277)), torch.zeros(1)])
    x = x[x < torch.inf][None].expand(2, -1).contiguous()
    path = tmp_path / "bits.onnx"
    path.write_bytes(convert(Bits(), Call(x)).SerializeToString())
    bits, shifted, powers = run(path, Call(x))
    expected = Bits()(x)
    assert torch.equal(bits, expected[0])
    assert torch.equal(shifted, expected[1])
    normal = x >= torch.finfo(torch.float32).tiny
    assert torch.equal(powers[normal], expected[2][normal])
