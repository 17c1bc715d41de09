"""Networks prepared with 8-bit activations: tables read and answer bytes, and answers stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from halut.bench.method import relative_error
from halut.errors import HalutError
from halut.inference import PackedConv2d, onednn, prepare
from halut.inference.int8_steps import Int8Tables, reads_bytes
from halut.inference.onednn import Grid, Int8Product
from halut.ops import forced
from tests.inference.networks import network_of, replaced


@pytest.fixture(scope="module")
def residual_network():
    network, x = network_of("resnet18")
    return *replaced(network, x, keep_first=True), x


def steps(network: nn.Module, kind: type) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, kind)]


@torch.no_grad()
def test_tables_read_and_answer_bytes(residual_network):
    network, plan, x = residual_network
    converted = prepare(network, calibration=x)
    tables = steps(converted, Int8Tables)
    assert len(tables) == len(plan.replaced)
    convolutions = [step for step in tables if isinstance(step.layer, PackedConv2d)]
    assert all(step.dtype == torch.uint8 for step in convolutions)
    assert all("thresholds" in step._buffers for step in convolutions)
    additions = [node for node in converted.graph.nodes if "add" in node.name]
    assert not additions
    if onednn.available():
        assert len(steps(converted, Int8Product)) == 1  # the stem, kept exact


@torch.no_grad()
def test_the_same_bits_by_torch(residual_network):
    network, _, x = residual_network
    converted = prepare(network, calibration=x)
    with forced("torch"):
        expected = converted(x)
    assert torch.equal(converted(x), expected)


def in_floats(step: Int8Tables, x: Tensor, other: Tensor | None) -> Tensor:
    """What a step has to answer: the float32 answer to the numbers that its bytes stand for."""
    numbers = x if x.dtype == torch.float32 else step.grid.dequantize(x)
    y = step.layer(numbers)
    if other is not None:
        y = y + step.other_grid.dequantize(other)
    low = step.low
    if low is not None:
        y = y.clamp(min=low if step.to_grid is None else step.to_grid.scale * (low - zero(step)))
    return y if step.to_grid is None else step.to_grid.quantize(y)


def zero(step: Int8Tables) -> int:
    return step.to_grid.zero_point


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet20", "resnet8", "ds_cnn"])
@pytest.mark.parametrize("operator", ["tree", "pq"])
def test_every_step_answers_what_its_bytes_stand_for(name, operator):
    network, x = network_of(name)
    network, plan = replaced(network, x, operator)
    converted = prepare(network, calibration=x)
    results = []

    def check(step, inputs, answer):
        results.append(step)
        expected = in_floats(step, *inputs, *([None] * (2 - len(inputs)))).float()
        gap = (answer.float() - expected).abs()
        if step.to_grid is None:
            assert gap.max() <= 1e-4 * expected.abs().max()
        else:  # rounding may take the other of two neighbors
            assert gap.max() <= 1
            assert (gap > 0).float().mean() < 0.01

    for step in steps(converted, Int8Tables):
        step.register_forward_hook(check)
    converted(x)
    assert len(results) == len(plan.replaced)


@torch.no_grad()
def test_a_whole_network_errs_by_little():
    network, x = network_of("resnet9")
    trees = {"output_metric": False, "boosting": 0}  # of 512 rows: boosted ones cut close to some
    network, _ = replaced(network, x, options=trees, keep_first=True)
    assert relative_error(prepare(network, calibration=x)(x), prepare(network, x)(x)) < 0.3


@torch.no_grad()
def test_bytes_are_read_where_zero_is_zero():
    network, x = network_of("resnet8")
    network, _ = replaced(network, x, keep_first=True)
    layer = steps(prepare(network, x), PackedConv2d)[0]
    assert reads_bytes(layer, Grid(0.1, 0))
    assert not reads_bytes(layer, Grid(0.1, 3))  # its window reaches over the border
    narrow = next(
        m for m in steps(prepare(network, x), PackedConv2d) if m.geometry.kernel_size == (1, 1)
    )
    assert reads_bytes(narrow, Grid(0.1, 3))


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x) if float(x.sum()) > 0 else -self.conv(x)


class Untraceable(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if float(x.sum()) > 0 else self.inner(-x)


def test_refusals(residual_network):
    network, _, x = residual_network
    with pytest.raises(HalutError, match=r"torch\.fx can follow"):
        prepare(Opaque(), calibration=x)
    with pytest.raises(HalutError, match="batch of float32 inputs"):
        prepare(network, calibration=x.half())


@torch.no_grad()
def test_what_can_be_followed_within_a_network_that_cannot_runs_in_bytes(residual_network):
    network, plan, x = residual_network
    converted = prepare(Untraceable(network), calibration=x)
    assert len(steps(converted, Int8Tables)) == len(plan.replaced)
    for sign in (1, -1):
        reached = sign * x * (sign * x.sum()).sign()
        expected = prepare(network, calibration=reached)(reached)
        torch.testing.assert_close(converted(sign * x), expected)


@torch.no_grad()
def test_a_mode_sees_the_operators(residual_network):
    """Layers call their implementation directly, but never past somebody who watches."""
    network, _, x = residual_network
    prepared = prepare(network, x)
    seen = []

    class Watching(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watching():
        watched = prepared(x)
    assert sum("tree_layer" in name for name in seen) == len(steps(prepared, PackedConv2d)) + 1
    assert torch.equal(prepared(x), watched)
    with FlopCounterMode(display=False) as counter:
        prepared(x)
    counts = {
        str(operator): flops for operator, flops in counter.get_flop_counts()["Global"].items()
    }
    assert counts["aten.convolution"] == 2 * len(x) * 16 * 16 * 64 * 3 * 7 * 7  # the stem's
    assert any("tree_layer" in name and flops > 0 for name, flops in counts.items())


class Branches(nn.Module):
    """A sum of other shapes, and one of a term that changes in place before it is added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm(x) + 0.1
        wide = self.conv1(x) + x.mean((2, 3), keepdim=True)
        y = self.conv2(wide)
        wide.relu_()
        return y + wide


@torch.no_grad()
def test_additions_that_are_no_residuals_stay():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 9, 9)
    network, _ = replaced(Branches().eval(), x)
    prepared = prepare(network, x)
    assert sum("add" in node.name for node in prepared.graph.nodes) == 3
    torch.testing.assert_close(prepared(x), network(x))
