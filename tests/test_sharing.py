"""Layers that read one input get one encoder: planned, trained, saved and prepared as one."""

import copy
import json

import pytest
import torch
from torch import nn

from halut.analysis.bit_operations import bit_figures
from halut.analysis.network_cost import replaced_cost
from halut.errors import HalutError
from halut.inference import PackedLayer, prepare
from halut.models.weights import load_weights, save_weights
from halut.replace import swap
from halut.replace.param_groups import by_role
from halut.replace.policy import resolve, simple_rules
from halut.replace.sharing import same_inputs, with_sharing
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.sites.plan import Plan


class Attention(nn.Module):
    """Separate q, k and v of one input, a gate of another M, and a projection."""

    def __init__(self, dim=16, heads=2):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.gate = nn.Linear(dim, 1, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        x = self.norm(x)
        B, T, D = x.shape
        q, k, v = (
            f(x).view(B, T, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D)
        return self.proj(y) * self.gate(x).sigmoid()


GROUP = ["q", "k", "v", "gate"]


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(6, 10, 16)


def planned(network, x, operator="tree", **options):
    sites, unsupported = find_sites(network, x[:1])
    rules = simple_rules(sites, keep_first=False, keep_last=False)
    plan = resolve(sites, rules, operator, {"K": 8, **options}, unsupported)
    return with_sharing(plan, same_inputs(network, x[:1]))


def learned(network, plan, x, order=None):
    for name in order or [e.site.name for e in plan.replaced]:
        entry = plan[name]
        swap.replace_site(network, entry, capture(network, [entry.site], [x])[name])
    return network


def make(x, operator="tree", order=None, **options):
    torch.manual_seed(0)
    network = Attention().eval()
    plan = planned(network, x, operator, **options)
    return learned(copy.deepcopy(network), plan, x, order), plan, network


def test_the_plan_finds_who_reads_one_input(x):
    network = Attention()
    assert same_inputs(network, x) == [GROUP]
    plan = planned(network, x)
    assert {e.site.name: e.shares for e in plan} == {**dict.fromkeys(GROUP, "q"), "proj": None}
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert not any(e.shares for e in planned(network, x, "pq", output_metric=True))


class InPlace(nn.Module):
    """Reads a tensor before and after it is changed, and equal values of two tensors."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        y = self.a(x)
        x += 1
        return y + self.b(x) + self.c(x.clone()) + self.d(x)


def test_identity_decides_not_equal_values(x):
    assert same_inputs(InPlace(), torch.zeros(2, 4)) == [["b", "d"]]


@pytest.mark.parametrize("operator", ["tree", "pq"])
@pytest.mark.parametrize("order", [None, ["v", "proj", "q", "gate", "k"]])
def test_one_encoder_learned_once(x, operator, order):
    network, _, exact = make(x, operator, order, V=4)
    assert len({id(network.get_submodule(name).encoder) for name in GROUP}) == 1
    assert network.proj.encoder is not network.q.encoder
    rows = exact.norm(x)
    for name in GROUP:  # the codes mean something to every layer's table
        expected = exact.get_submodule(name)(rows)
        error = (network.get_submodule(name)(rows) - expected).norm() / (
            expected - expected.mean()
        ).norm()
        assert error < 0.8


def test_the_encoder_trains_once_by_all_of_their_gradients(x):
    network, _, _ = make(x)
    thresholds = network.q.encoder.thresholds
    roles = by_role(network)
    assert sum(p is thresholds for p in roles["thresholds"]) == 1
    total = torch.zeros_like(thresholds)
    rows = network.norm(x)
    for name in GROUP:
        (part,) = torch.autograd.grad(network.get_submodule(name)(rows).square().sum(), thresholds)
        total += part
    sum(network.get_submodule(name)(rows).square().sum() for name in GROUP).backward()
    torch.testing.assert_close(thresholds.grad, total)


def test_saved_and_loaded(x, tmp_path):
    network, plan, exact = make(x)
    save_weights(tmp_path / "model.safetensors", network.state_dict())
    for stages in (None, 1):
        again = copy.deepcopy(exact)
        staged = plan.with_stages({e.site.name: int(e.site.name in "kv") for e in plan.replaced})
        swap.apply(again, staged, stages)
        swap.apply(again, staged)
        load_weights(again, tmp_path / "model.safetensors")
        assert len({id(again.get_submodule(name).encoder) for name in GROUP}) == 1
        assert torch.equal(again(x), network(x))


def test_the_encoder_is_counted_once(x):
    network, plan, _ = make(x)
    alone, apart, _ = make(x)
    for name in GROUP:
        alone.get_submodule(name).encoder = copy.deepcopy(alone.q.encoder)
    shared, separate = replaced_cost(plan, network), replaced_cost(apart, alone)
    encoder = network.q.encoder.cost(10)
    assert separate["encode_compares"] - shared["encode_compares"] == 3 * encoder["compares"] > 0
    bops = bit_figures(apart, alone)["bops"] - bit_figures(plan, network)["bops"]
    assert bops == 32 * 3 * encoder["compares"]
    assert separate["weight_bytes"] - shared["weight_bytes"] == 3 * encoder["state_bytes"]
    assert shared["lookups"] == separate["lookups"]


@pytest.mark.parametrize("operator", ["tree", "pq"])
@torch.no_grad()
def test_prepared_as_one_layer(x, operator, tmp_path):
    network, _, _ = make(x, operator)
    prepared = prepare(network, x)
    packed = {n: m for n, m in prepared.named_modules() if isinstance(m, PackedLayer)}
    assert packed.keys() == {"q_k_v_gate", "proj"}
    assert packed["q_k_v_gate"].table.shape[3] == 3 * 16 + 1
    torch.testing.assert_close(prepared(x), network(x), rtol=1e-4, atol=1e-5)
    program = torch.export.export(prepared, (x,))
    torch.testing.assert_close(program.module()(x), network(x), rtol=1e-4, atol=1e-5)
    compiled = torch.compile(prepared, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)


def test_trained_apart_they_stay_apart(x):
    network, _, _ = make(x)
    for name in GROUP:
        network.get_submodule(name).encoder = copy.deepcopy(network.q.encoder)
    with torch.no_grad():
        network.k.encoder.thresholds += 0.1
        prepared = prepare(network, x)
        torch.testing.assert_close(prepared(x), network(x), rtol=1e-4, atol=1e-5)
    names = {n for n, m in prepared.named_modules() if isinstance(m, PackedLayer)}
    assert names == {"q_v_gate", "k", "proj"}


def test_a_plan_that_shares_what_differs_is_refused(x):
    network = Attention()
    fields = planned(network, x).to_dict()
    next(e for e in fields["entries"] if e["site"]["name"] == "k")["options"]["K"] = 4
    with pytest.raises(HalutError, match="k and q cannot share an encoder"):
        swap.apply(network, Plan.from_dict(fields))
