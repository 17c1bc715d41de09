"""What holds for prepared networks of every operator: twins, dtypes, gradients, export."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from halut.errors import HalutError
from halut.inference import prepare
from halut.replace import swap
from halut.replace.operator_registry import make_operator, operator_names
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.sites.plan import Entry

OPTIONS: dict[str, tuple[str, dict]] = {
    **{name: (name, {}) for name in operator_names() if name != "chain"},
    "lqnet popcount": ("lqnet", {"contraction": "popcount", "width": 2}),
    "abcnet popcount": ("abcnet", {"contraction": "popcount"}),
    "chain": ("chain", {"codecs": ["prune", "integer"]}),
    "tree float": ("tree", {"bits": None}),
    "pq by outputs": ("pq", {"output_metric": True}),
}


class Tokens(nn.Module):
    """A convolution, a norm, a sum and a ReLU, and a linear layer on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)
        self.map = nn.Parameter(torch.randn(1, 8, 6, 6))

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)) + self.map)
        return self.head((self.conv2(x) + x).flatten(2).transpose(1, 2))


def network_of(operator: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    network, x = Tokens().eval(), torch.randn(16, 3, 6, 6)
    network.norm.running_mean.normal_()
    network.norm.weight.data.uniform_(-1, 1)
    name, options = OPTIONS[operator]
    sites, _ = find_sites(network, x[:1])
    made = make_operator(name, **options)
    entries = [
        Entry(s, name, made.plan_options(s), stage=0) for s in sites if made.supports(s) is None
    ]
    rows = capture(network, [e.site for e in entries], [x])
    for entry in entries:
        swap.replace_site(network, entry, rows[entry.site.name])
    return network.eval(), x


def far(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Median over tokens of the relative distance: rounding flips few codes."""
    assert ours.shape == theirs.shape
    gaps = (ours.float() - theirs.float()).norm(dim=-1) / theirs.float().norm(dim=-1)
    return float(gaps.median())


every_operator = pytest.mark.parametrize("operator", OPTIONS)


@every_operator
@torch.no_grad()
def test_answers_of_other_batches(operator):
    network, x = network_of(operator)
    for example in (None, x[:1], x[:4]):
        prepared = prepare(network, example)
        for batch in (1, 3, 7):
            assert far(prepared(x[:batch]), network(x[:batch])) < 1e-5
            lying = x[:batch].contiguous(memory_format=torch.channels_last)
            assert far(prepared(lying), network(lying)) < 1e-5
        wide = torch.randn(3, 3, 6, 12)[..., ::2]
        assert far(prepared(wide), network(wide.contiguous())) < 1e-5
    assert far(prepare(network, calibration=x)(x[:3]), network(x[:3])) < 0.2


@every_operator
@pytest.mark.parametrize("by", ["example", "calibration"])
@torch.no_grad()
def test_a_twin_answers_what_it_has_loaded(operator, by):
    (network, x), (other, y) = network_of(operator), network_of(operator, seed=1)
    ours, twin = prepare(network, **{by: x}), prepare(other, **{by: y})
    assert not torch.equal(twin(x), ours(x))
    twin.load_state_dict(ours.state_dict())
    assert torch.equal(twin(x), ours(x))
    assert torch.equal(copy.deepcopy(twin)(x), ours(x))


@every_operator
@pytest.mark.parametrize("by", ["example", "calibration"])
def test_nothing_has_a_gradient(operator, by):
    network, x = network_of(operator)
    prepared = prepare(network, **{by: x[:4]})
    assert not prepared(x[:2]).requires_grad
    assert not any(t.requires_grad for t in (*prepared.parameters(), *prepared.buffers()))
    with pytest.raises(HalutError, match="has no gradient"):
        prepared(x[:2].requires_grad_())
    with torch.no_grad():
        assert not prepared(x[:2]).requires_grad
    assert all(p.requires_grad for p in network.parameters() if p.is_leaf and p is network.map)


@every_operator
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_narrow_floats(operator, dtype):
    network, x = network_of(operator)
    expected = prepare(network, x)(x)
    y = prepare(network, x).to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert far(y, expected) < (0.05 if dtype == torch.float16 else 0.2)


@torch.no_grad()
def test_bytes_are_made_of_float32_alone():
    network, x = network_of("tree")
    prepared = prepare(network, calibration=x).half()
    with pytest.raises(HalutError, match="takes float32 inputs"):
        prepared(x.half())
    assert torch.equal(prepared(x), prepare(network, calibration=x)(x))


@every_operator
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.float64])
@torch.no_grad()
def test_other_dtypes_are_refused(operator, dtype):
    network, x = network_of(operator)
    prepared = prepare(network, x)
    for layer, value in (
        (prepared.conv, 50 * x),
        (prepared.head, x[..., :1].expand(-1, -1, -1, 8)),
    ):
        if type(layer) in (nn.Conv2d, nn.Linear):
            continue  # kept exact
        layer(value.abs())
        with pytest.raises((HalutError, RuntimeError)) as refusal:
            layer(value.abs().to(dtype))
        assert "\n" not in str(refusal.value)


@every_operator
@torch.no_grad()
def test_exports_with_any_batch(operator):
    network, x = network_of(operator)
    prepared = prepare(network, x[:2])
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(prepared, (x[:2],), dynamic_shapes=batch).module()
    for size in (1, 3, 7):
        assert far(program(x[:size]), prepared(x[:size])) < 1e-5


@pytest.mark.parametrize("operator", ["tree", "pq", "decision_tree"])
@torch.no_grad()
def test_residuals_are_checked_where_they_are_added(operator):
    network, x = network_of(operator)
    layer = prepare(network, x).conv
    y = layer(x[:2])
    good = torch.randn_like(y)
    layer(x[:2], good)
    strided = torch.randn(*y.shape[:3], 2 * y.shape[3])[..., ::2]
    torch.testing.assert_close(layer(x[:2], strided), layer(x[:2], strided.contiguous()))
    wrong = (good[:1], good[:, :1], good[..., :3], good.flatten(1), good.double(), good.int())
    for residual in wrong:
        with pytest.raises(HalutError, match="the residual must"):
            layer(x[:2], residual)
