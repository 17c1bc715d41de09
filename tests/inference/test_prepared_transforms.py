"""Networks whose layers map their inputs first: prepared, in bytes, shared, saved and loaded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import halut
from halut.configs import PQ, DecisionTree, Tree
from halut.inference import PackedConv2d, PackedLayer, prepare
from halut.inference.int8_steps import Int8Tables, reads_bytes
from halut.inference.onednn import Grid
from tests.inference.networks import gap
from tests.test_sharing import make

TRANSFORMS = ("hadamard", "permute")
CONFIGS = {"tree": Tree, "pq": PQ, "decision_tree": DecisionTree}


class Pointwise(nn.Module):
    """Convolutions of 1x1, one of groups and one strided, a residual, and a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(12, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 1, groups=2)
        self.conv3 = nn.Conv2d(16, 24, 1, 2)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv1(x)))
        x = torch.relu(self.conv2(x) + x)
        return self.head(torch.relu(self.conv3(x)).mean((2, 3)))


def network_of(operator: str, transform: str, **options) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    network, x = Pointwise().eval(), torch.randn(8, 12, 6, 6)
    network.norm.running_mean.normal_()
    config = CONFIGS[operator](V=4, K=8, transform=transform, **options)
    short = {"keep_first": False, "keep_last": False, "calibrate": "replaced"}
    halut.replace_(network, config, calibration=[x], **short)
    return network.eval(), x


every_form = pytest.mark.parametrize("transform", TRANSFORMS)
every_operator = pytest.mark.parametrize(
    ("operator", "options"),
    [
        ("tree", {}),
        ("pq", {}),
        ("pq", {"output_metric": True}),
        ("pq", {"bits": None}),
        ("decision_tree", {}),
    ],
)


@every_form
@every_operator
@torch.no_grad()
def test_prepared_answers(operator, options, transform):
    network, x = network_of(operator, transform, **options)
    prepared = prepare(network, x)
    for inputs in (x, x[:3], x.contiguous(memory_format=torch.channels_last)):
        assert gap(prepared(inputs), network(inputs)) < 1e-4
    twin = prepare(network, x)
    twin.load_state_dict(prepared.state_dict())
    assert torch.equal(twin(x), prepared(x))
    halves = copy.deepcopy(prepared).half()(x.half())
    assert halves.dtype == torch.float16
    assert gap(halves.float(), network(x)) < 0.1
    if operator != "decision_tree":
        compiled = torch.compile(prepared, fullgraph=True, backend="aot_eager")
        assert gap(compiled(x), network(x)) < 1e-4


@torch.no_grad()
def test_trees_take_a_permutation_into_their_columns():
    network, x = network_of("tree", "permute")
    layer, packed = network.conv1, prepare(network, x).conv1
    assert packed.transform is None
    order = layer.encoder.transform.order
    assert not torch.equal(order, order.sort().values)
    assert torch.equal(packed.taps, order[layer.encoder.input_dims])
    rotated, _ = network_of("tree", "hadamard")
    assert prepare(rotated, x).conv1.transform is not None


@every_form
@pytest.mark.parametrize("operator", ["tree", "pq"])
@torch.no_grad()
def test_in_bytes(operator, transform):
    network, x = network_of(operator, transform)
    converted = prepare(network, calibration=x)
    assert gap(converted(x), network(x)) < 0.3
    tables = [step for step in converted.modules() if isinstance(step, Int8Tables)]
    assert len(tables) == 4
    for step in tables:
        if isinstance(step.layer, PackedConv2d):
            in_bytes = operator == "tree" and transform == "permute"
            assert reads_bytes(step.layer, Grid(0.1, 3)) == in_bytes


@every_form
@pytest.mark.parametrize("operator", ["tree", "pq", "decision_tree"])
@torch.no_grad()
def test_layers_of_one_encoder(operator, transform):
    x = torch.randn(6, 10, 16, generator=torch.Generator().manual_seed(2))
    network, _, _ = make(x, operator, V=4, transform=transform)
    prepared = prepare(network, x)
    torch.testing.assert_close(prepared(x), network(x), rtol=1e-4, atol=1e-5)
    names = {n for n, m in prepared.named_modules() if isinstance(m, PackedLayer)}
    assert ("q_k_v_gate" in names) == (operator != "decision_tree")  # no operator of its own


@torch.no_grad()
def test_permutations_that_differ_are_not_merged():
    x = torch.randn(6, 10, 16, generator=torch.Generator().manual_seed(2))
    network, _, _ = make(x, "pq", V=4, transform="permute")
    network.k.encoder = copy.deepcopy(network.q.encoder)
    network.k.encoder.transform.order.copy_(network.q.encoder.transform.order.flip(0))
    network.k.readers = None
    prepared = prepare(network, x)
    torch.testing.assert_close(prepared(x), network(x), rtol=1e-4, atol=1e-5)
    names = {n for n, m in prepared.named_modules() if isinstance(m, PackedLayer)}
    assert {"q_v_gate", "k"} <= names


@every_form
@pytest.mark.parametrize("operator", CONFIGS)
def test_a_bundle_answers_the_same(operator, transform, tmp_path):
    network, x = network_of(operator, transform)
    halut.save(network, tmp_path / "bundle")
    again = halut.load(tmp_path / "bundle", Pointwise).eval()
    assert torch.equal(again(x), network(x))
