"""Networks of any forward signature: tuples, keywords, mappings, mappings as outputs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from halut.analysis.layer_errors import layer_errors
from halut.errors import HalutError
from halut.replace import swap
from halut.replace.liveness import prove
from halut.replace.policy import Rule, resolve
from halut.replace.recalibrate import recalibrate
from halut.sites.calibration import calibrating, capture
from halut.sites.calls import Call, batch_call, example_call, first_call
from halut.sites.find import find_sites


def parts() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "a": nn.Linear(6, 8),
            "b": nn.Linear(6, 8),
            "norm": nn.BatchNorm1d(8),
            "out": nn.Linear(8, 3),
        }
    )


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = parts()

    def body(self, x: Tensor, y: Tensor) -> Output:
        hidden = torch.relu(self.layers["norm"](self.layers["a"](x) + self.layers["b"](y)))
        return Output(self.layers["out"](hidden), hidden)


class Positional(Base):
    def forward(self, x, y):
        return self.body(x, y).logits


class Keywords(Base):
    def forward(self, *, x, y, scale=1.0):
        return {"logits": scale * self.body(x, y).logits}


class DataclassOutput(Base):
    def forward(self, x, y=None):
        return self.body(x, y)


class OneMapping(Base):
    def forward(self, batch):
        return self.body(batch["x"], batch["y"])


X, Y = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(1))
CASES = {
    "tuple": (Positional, ((X, Y), torch.zeros(40))),
    "call": (Positional, Call(X, y=Y)),
    "keywords": (Keywords, {"x": X, "y": Y, "labels": torch.zeros(40)}),
    "dataclass as output": (DataclassOutput, {"x": X, "y": Y}),
    "mapping": (OneMapping, {"x": X, "y": Y}),
    "mapping and targets": (OneMapping, ({"x": X, "y": Y}, torch.zeros(40))),
}
SITES = ["layers.a", "layers.b", "layers.out"]


@pytest.fixture(params=CASES)
def case(request):
    kind, batch = CASES[request.param]
    return kind().eval(), batch


def test_sites_are_found(case):
    network, batch = case
    sites, unsupported = find_sites(network, batch_call(network, batch).head(1))
    assert [(site.name, site.rows) for site in sites] == [(name, 1) for name in SITES]
    assert not unsupported


def test_rows_of_several_samples_are_those_of_one(case):
    network, batch = case
    sites, _ = find_sites(network, batch_call(network, batch), samples=40)
    assert [site.rows for site in sites] == [1, 1, 1]


def test_rows_are_the_same_by_batches_by_a_loop_and_by_calls(case):
    network, batch = case
    call = batch_call(network, batch)
    sites, _ = find_sites(network, call.head(1))
    rows = capture(network, sites, [batch, batch], rows=50)
    looped = capture(network, sites, lambda net: [call(net) for _ in range(2)], rows=50)
    with calibrating(network, sites, rows=50) as seen:
        call(network)
        call(network)
    assert set(seen) == set(SITES)
    for name in SITES:
        assert torch.equal(rows[name], looped[name])
        assert torch.equal(rows[name], seen[name])
    assert {tuple(row.tolist()) for row in rows["layers.a"]} <= {tuple(row.tolist()) for row in X}


def test_norms_errors_and_liveness(case):
    network, batch = case
    call = batch_call(network, batch)
    assert recalibrate(network, [batch]) == 1
    mean = network.layers["norm"].running_mean.clone()
    expected = (network.layers["a"](X) + network.layers["b"](Y)).mean(0)
    assert torch.allclose(mean, expected, atol=1e-6)
    assert recalibrate(network, lambda net: call(net)) == 1
    assert torch.equal(network.layers["norm"].running_mean, mean)
    sites, _ = find_sites(network, call.head(1))
    plan = resolve(sites, [Rule(operator="integer", options={"width": 4})], "integer", {})
    for entry in plan.replaced:
        swap.replace_site(network, entry, capture(network, [entry.site], [batch])[entry.site.name])
    prove(network, call)
    by_batch, by_loop = layer_errors(network, [batch]), layer_errors(network, lambda net: call(net))
    assert by_batch == by_loop
    assert all(0 < by_batch[name]["normalized_mse"] < 0.1 for name in SITES)


def test_a_lone_sample_joins_the_next_batch_in_every_tensor():
    network = Keywords().eval()
    lone, rest = {"x": X[:1], "y": Y[:1]}, {"x": X[1:], "y": Y[1:]}
    assert recalibrate(network, [lone, rest]) == 1
    mean = network.layers["norm"].running_mean.clone()
    recalibrate(network, [{"x": X, "y": Y}])
    assert torch.equal(network.layers["norm"].running_mean, mean)


def test_the_first_call_of_a_loop_leaves_it():
    network, after = Positional().eval(), []

    def loop(net):
        try:
            net(X, y=Y)
        except Exception:
            after.append("caught")
        after.append("went on")

    call = first_call(network, loop)
    assert call.args[0] is X
    assert call.kwargs["y"] is Y
    assert not after
    assert "forward" not in vars(network)


@pytest.mark.parametrize(
    ("data", "message"),
    [([], "no batches"), (lambda net: None, "does not call the network"), (3, "got int")],
)
def test_nothing_to_call_is_refused(data, message):
    with pytest.raises(HalutError, match=message):
        first_call(Positional(), data)


def test_a_call_that_the_network_does_not_take_is_shown():
    with pytest.raises(HalutError, match=r"cannot take Call\(\[40, 6\], y=\[40, 5\]\)"):
        find_sites(Positional(), Call(X, y=Y[:, :5]))


def test_forwards_with_any_keyword_take_all_of_a_mapping():
    class Any(nn.Module):
        def forward(self, **named):
            return named

    assert set(example_call(Any(), {"x": X, "z": Y}).kwargs) == {"x", "z"}
