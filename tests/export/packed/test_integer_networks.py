"""Integer networks against the prepared ones, and what has no integer form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import halut
from halut.errors import HalutError
from halut.export.packed.lowering import integer_network
from halut.export.packed.network import IntegerNetwork
from halut.inference import prepare
from halut.inference.onednn import Grid
from halut.ops import cpu, forced
from halut.sites.calls import Call
from tests.inference.networks import gap, network_of, replaced

STEPS = {
    "resnet8": {"product": 1, "tables": 9, "mean_pool": 1, "flatten": 1},
    "resnet18": {"product": 1, "max_pool": 1, "tables": 21, "mean_pool": 1},
    "ds_cnn": {"product": 1, "tables": 5, "mean_pool": 1, "flatten": 1},
    "resnet9": {"product": 1, "tables": 8, "max_pool": 4, "flatten": 1, "add": 2},
}


def lowered(name: str, operator: str = "tree") -> tuple[nn.Module, Tensor, IntegerNetwork]:
    network, x = network_of(name)
    network, _ = replaced(network, x, operator, keep_first=True)
    return network, x, integer_network(network, Call(x))


@torch.no_grad()
@pytest.mark.parametrize("name", STEPS)
def test_every_layer_is_a_step_of_integers(name):
    network, x, integers = lowered(name)
    kinds = [step.operation.kind for step in integers.steps]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == STEPS[name]
    trace = integers.trace(integers.source.grid.quantize(x))
    for step in integers.steps:
        parts = trace[step.name]
        assert parts["output"].dtype == torch.uint8
        assert parts["output"].shape[1:] == step.output.shape
    assert integers(x).shape == network(x).shape


@torch.no_grad()
@pytest.mark.parametrize(("operator", "share"), [("tree", 0.97), ("pq", 0.9)])
def test_steps_answer_what_the_layers_do(operator, share):
    """One at a time, on what its bytes stand for, but where rounded prototypes change a code."""
    network, x, integers = lowered("resnet8", operator)
    values = {"input": integers.source.grid.dequantize(integers.source.grid.quantize(x))}
    trace = integers.trace(integers.source.grid.quantize(x))
    for step in integers.steps:
        inputs = [values[value.name] for value in step.inputs]
        values[step.name] = step.output.grid.dequantize(trace[step.name]["output"])
        if step.name == "pool":
            exact = inputs[0].mean((2, 3), keepdim=True)
        elif step.name == "flatten":
            exact = inputs[0].flatten(1)
        else:
            exact = _with_norm(network, step.name, inputs)
        near = (values[step.name] - exact).abs() < 2 * step.output.grid.scale
        assert float(near.float().mean()) > share, step.name


def _with_norm(network: nn.Module, name: str, inputs: list[Tensor]) -> Tensor:
    """A convolution's answer with the norm, the addition and the ReLU that stand behind it."""
    layer = network.get_submodule(name)
    parent, _, own = name.rpartition(".")
    block = network.get_submodule(parent)
    y = layer(inputs[0])
    norm = getattr(block, own.replace("conv", "bn"), None) if "conv" in own else None
    y = y if norm is None else norm(y)
    if len(inputs) > 1:
        y = y + inputs[1]
    joins = own == "conv1" or len(inputs) > 1
    return y.relu() if joins else y


@torch.no_grad()
def test_the_answers_are_the_prepared_networks():
    network, x, integers = lowered("resnet8")
    assert gap(integers(x), prepare(network, calibration=x)(x)) < 0.02


@torch.no_grad()
@pytest.mark.parametrize("operator", ["tree", "pq"])
def test_every_cpu_capability_and_torch_answer_the_same_bits(operator):
    _, x, integers = lowered("resnet8", operator)
    golden = integers.trace(integers.source.grid.quantize(x))

    def replayed() -> bool:
        trace = integers.trace(integers.source.grid.quantize(x))
        pairs = ((golden[step], trace[step]) for step in golden)
        return all(torch.equal(a[name], b[name]) for a, b in pairs for name in a)

    for level in cpu.cpu_capabilities():
        with cpu.use_cpu_capability(level):
            assert replayed()
    with forced("torch"):
        assert replayed()


def test_layers_of_codecs_are_named():
    network, x = network_of("resnet8")
    halut.replace_(network, halut.Integer(width=8), calibration=[x])
    with pytest.raises(HalutError, match=r"^\S+ \(\w+\) has no integer form"):
        integer_network(network, Call(x))


@torch.no_grad()
def test_the_batch_is_free_and_the_size_of_maps_is_not():
    _, x, integers = lowered("ds_cnn")
    assert torch.equal(integers(x[:2]), integers(x)[:2])
    with pytest.raises(HalutError, match=r"takes uint8 \[B, 1, 20, 16\], got .* \[5, 1, 20, 15\]"):
        integers(x[..., :15])


class Odd(nn.Module):
    """A convolution, and what may follow it."""

    def __init__(self, act: nn.Module | None = None, scale: float = 1.0, outputs: int = 1) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(2, 2, 3, padding=1), act or nn.Identity()
        self.scale, self.outputs = scale, outputs

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        y = self.act(self.conv(x))
        y = y if self.scale == 1.0 else y * self.scale
        return y if self.outputs == 1 else (y, x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Odd(nn.GELU()), r"^act \(GELU\) has no integer form: .*export it to onnx"),
        (Odd(nn.AvgPool2d(2)), r"^act \(AvgPool2d\)"),
        (Odd(nn.BatchNorm2d(2), outputs=2), "answers what its last step does, one tensor"),
        (Odd(scale=0.5), r"^mul \(mul\) has no integer form"),
        (nn.Conv2d(2, 2, 3, padding_mode="circular"), r"has no integer form"),
    ],
)
def test_what_has_no_integer_form_is_named(network, message):
    network = nn.Sequential(network) if isinstance(network, nn.Conv2d) else network
    with pytest.raises(HalutError, match=message):
        integer_network(network.eval(), Call(torch.randn(2, 2, 5, 5)))


class InPlace(nn.Module):
    """Sums and ReLUs, in place where told."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x), self.second(x)
        if self.own:
            b += a
            return b.relu_() + a
        a += b
        return a + self.second(a)


@torch.no_grad()
def test_sums_in_place_are_sums():
    torch.manual_seed(0)
    network, x = InPlace(own=True).eval(), torch.randn(4, 2, 6, 6)
    integers = integer_network(network, Call(x))
    assert gap(integers(x), network(x)) < 0.05
    network = InPlace(own=False).eval()
    assert gap(integer_network(network, Call(x))(x), network(x)) < 0.05


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def test_networks_of_two_inputs_are_refused():
    with pytest.raises(HalutError, match="one input, a tensor of finite floats: this one takes 2"):
        integer_network(TwoInputs().eval(), Call(torch.ones(1, 2), torch.ones(1, 2)))


@torch.no_grad()
def test_additions_alone_and_relus_alone_are_steps():
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.relu()

    x = torch.randn(3, 7)
    integers = integer_network(Sum().eval(), Call(x))
    assert [step.operation.kind for step in integers.steps] == ["relu", "add"]
    assert float((integers(x) - (x + x.relu())).abs().max()) < 2 * Grid.around(x + x.relu()).scale
