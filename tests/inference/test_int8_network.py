"""Networks converted to oneDNN's INT8 operators answer what they did, and run in INT8."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from torch import nn

from halut.bench.cpu.onednn import kernels_of
from halut.bench.method import relative_error
from halut.errors import HalutError
from halut.inference import onednn, prepare
from halut.inference.fold import fold
from halut.inference.int8 import int8_network
from halut.inference.int8_steps import MaxPool, MeanPool
from halut.inference.onednn import Grid, Int8Product
from halut.inference.trace import traced

pytestmark = pytest.mark.skipif(not onednn.available(), reason="this torch has no oneDNN")


class Residual(nn.Module):
    """A stem with max pooling, an identity block, a strided block with a projection, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.conv3, self.project = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(8, 16, 1, 2)
        self.gate = nn.Conv2d(16, 16, 1, groups=4)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.pool(F.relu(self.norm(self.stem(x))))
        x = torch.relu(self.conv2(F.relu(self.conv1(x))) + x)
        y = self.conv3(x)
        y += self.project(x)
        y = y.relu()
        y = y * torch.sigmoid(self.gate(y))
        return self.head(y.mean((2, 3)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Residual().eval().requires_grad_(False)
    network.norm.running_mean.normal_()
    return network


def test_a_residual_network_keeps_its_answers(network):
    x = torch.randn(4, 3, 17, 12)
    reference = network(x)
    converted, grid = int8_network(fold(traced(network)), x, bytes_in=True)
    q = grid.quantize(x).contiguous(memory_format=torch.channels_last)
    before = q.clone()
    assert relative_error(converted(q), reference) < 0.05
    assert torch.equal(converted(q), converted(q))
    assert torch.equal(q, before)
    products = [m for m in converted.modules() if isinstance(m, Int8Product)]
    assert len(products) == 7
    assert sum(m.other_grid is not None for m in products) == 2
    assert sum(m.relu for m in products) == 4
    kernels = kernels_of(lambda: converted(q))
    assert all(kernel.split()[2:4] == ["u8", "s8"] for kernel in kernels), kernels
    assert not any(isinstance(m, nn.Conv2d | nn.Linear | nn.ReLU) for m in converted.modules())


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2), nn.MaxPool2d((2, 3), 1)])
def test_max_pooling_of_bytes(pool):
    x = torch.randint(256, (2, 3, 9, 7), dtype=torch.uint8)
    assert torch.equal(MaxPool(pool, contiguous=False)(x).float(), pool(x.float()))


def dequantizes(network):
    """Whether bytes become floats before the end."""
    return any("dequantize" in str(node.target) for node in network.graph.nodes)


def pooled(pool, *rest):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), pool, *rest, nn.Linear(8, 5)).eval()


@pytest.mark.parametrize(
    "layers",
    [
        (nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()),
        (SelectAdaptivePool2d(pool_type="avg", flatten=True),),
        (SelectAdaptivePool2d(pool_type="fast", flatten=True), nn.Dropout()),
    ],
)
def test_the_mean_of_maps_stays_in_bytes(layers):
    network, x = pooled(*layers).requires_grad_(False), torch.randn(4, 3, 9, 8)
    converted, grid = int8_network(fold(traced(network)), x, bytes_in=True)
    assert any(isinstance(m, MeanPool) for m in converted.modules())
    assert not dequantizes(converted)
    q = grid.quantize(x).contiguous(memory_format=torch.channels_last)
    assert relative_error(converted(q), network(x)) < 0.03


class Flattened(nn.Module):
    """A network that calls torch.flatten, or something else that it calls flatten."""

    def __init__(self, flatten: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pool = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1)
        self.flatten, self.head = flatten, nn.Linear(8, 5)

    def forward(self, x):
        x = self.pool(self.conv(x).relu())
        return self.head(torch.flatten(x, 1) if self.flatten is None else self.flatten(x))


class Squared(nn.Module):
    def forward(self, x):
        return x.square().flatten(1)


@pytest.mark.parametrize("flatten", [None, Squared()])
def test_flattening_keeps_bytes_by_what_it_is_not_by_its_name(flatten):
    network, x = Flattened(flatten).eval().requires_grad_(False), torch.randn(4, 3, 9, 8)
    converted, grid = int8_network(fold(traced(network)), x, bytes_in=True)
    assert dequantizes(converted) == (flatten is not None)
    q = grid.quantize(x).contiguous(memory_format=torch.channels_last)
    assert relative_error(converted(q), network(x)) < 0.03


def test_other_pooling_does_as_it_did():
    for pool in (nn.AdaptiveMaxPool2d(1), SelectAdaptivePool2d(pool_type="avgmax")):
        network, x = pooled(pool, nn.Flatten()).requires_grad_(False), torch.randn(4, 3, 9, 8)
        converted, grid = int8_network(fold(traced(network)), x, bytes_in=True)
        assert not any(isinstance(m, MeanPool) for m in converted.modules())
        q = grid.quantize(x).contiguous(memory_format=torch.channels_last)
        assert relative_error(converted(q), network(x)) < 0.03


def test_means_are_rounded_on_their_own_grid():
    x = torch.randint(256, (2, 3, 5, 7), dtype=torch.uint8)
    grid, to = Grid(0.5, 100), Grid(0.25, 60)
    mean = grid.dequantize(x).mean((2, 3), keepdim=True)
    step = MeanPool(nn.AdaptiveAvgPool2d(1), grid, to)
    assert torch.equal(step(x), to.quantize(mean))
    assert torch.equal(torch.compile(step, fullgraph=True, backend="eager")(x), step(x))


def test_grids_hold_zero_and_their_range():
    x = torch.randn(1000) - 2
    grid = Grid.around(x)
    assert relative_error(grid.dequantize(grid.quantize(x)), x) < 0.01
    assert float(grid.dequantize(grid.quantize(torch.zeros(1)))) == 0
    assert Grid.around(x.relu()).zero_point == 0
    assert int(grid.quantize(torch.tensor([1e6]))) == 255
    assert Grid.of(0, 0).scale == 1


def test_off_the_cpu_it_is_refused(network):
    graph, x = fold(traced(network)), torch.randn(2, 3, 12, 12)
    with pytest.raises(HalutError, match=r"on the CPU alone.*are on meta"):
        int8_network(graph, x.to("meta"))
    with pytest.raises(HalutError, match=r"network\.cpu\(\)"):
        int8_network(graph.to("meta"), x)


def test_layers_that_are_kept_stay_in_floats(network):
    x = torch.randn(4, 3, 17, 12)
    ready = prepare(network, calibration=x, keep=["stem", "conv2", "head"])
    assert sum(isinstance(m, Int8Product) for m in ready.modules()) == 4
    kept = [m for m in ready.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [type(m) for m in kept] == [nn.Conv2d, nn.Conv2d, nn.Linear]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in ready.modules())  # folded as ever
    assert relative_error(ready(x), network(x)) < 0.05
    everything = prepare(network, calibration=x)  # nothing is left of it on the network
    assert sum(isinstance(m, Int8Product) for m in everything.modules()) == 7


def test_keep_is_refused_where_it_says_nothing(network):
    x = torch.randn(4, 3, 17, 12)
    with pytest.raises(HalutError, match="unknown exact layer 'conv9'; did you mean conv"):
        prepare(network, calibration=x, keep=["conv9"])
    with pytest.raises(HalutError, match="give calibration="):
        prepare(network, x, keep=["conv1"])
