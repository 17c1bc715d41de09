"""FLOPs of halut's operators as torch's counter sees them, by the agreed formula."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from halut.inference import prepare
from halut.layers.lut import LUTLayer
from halut.ops import flops
from halut.replace import swap
from halut.replace.policy import Rule, resolve
from halut.replace.sharing import same_inputs, with_sharing
from halut.sites.find import find_sites


def replaced(network: nn.Module, x: torch.Tensor, operator: str, share=False, **options):
    sites, _ = find_sites(network, x)
    plan = resolve(sites, [Rule(operator=operator, options=options)], operator, {})
    if share:
        plan = with_sharing(plan, same_inputs(network, x))
    return swap.apply(network, plan).eval()


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def of_cost(network: nn.Module) -> int:
    """2 multiply-adds and 1 for a compare or an addition, of the layers' own cost."""
    total, encoders = 0, set()
    for _, layer in swap.replaced_layers(network):
        assert isinstance(layer, LUTLayer)
        cost = layer.cost()
        total += cost["adds"]
        if id(layer.encoder) not in encoders:
            total += 2 * cost["encode_macs"] + cost["encode_compares"] + cost["encode_adds"]
        encoders.add(id(layer.encoder))
    return total


CASES = {
    "linear of tokens": (lambda: nn.Linear(12, 10), (1, 7, 12)),
    "1x1": (lambda: nn.Conv2d(8, 6, 1), (1, 8, 5, 5)),
    "grouped, strided": (lambda: nn.Conv2d(8, 6, 3, 2, 1, groups=2), (1, 8, 7, 7)),
}


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize(
    ("operator", "options"),
    [
        ("tree", {"K": 8}),
        ("tree", {"bits": None}),
        ("tree", {"scale": "codebook"}),
        ("pq", {"K": 5}),
        ("pq", {"metric": "l1"}),
        ("pq", {"metric": "chebyshev", "bits": None}),
    ],
)
def test_a_layer_counts_what_it_costs_prepared_or_not(case, operator, options):
    make, shape = CASES[case]
    x = torch.randn(shape)
    network = replaced(nn.Sequential(make()), x, operator, **options)
    expected = of_cost(network)
    assert expected > 0
    with torch.no_grad():
        assert counted(lambda: network(x)) == expected
        assert counted(lambda: prepare(network)(x)) == expected
        assert counted(lambda: network(torch.cat([x, x, x]))) == 3 * expected


def test_by_hand():
    """Rows 4, D 6, M 5, C 2, K 4: 2 compares a code; and for prototypes 2 D K and 3 compares."""
    x = torch.randn(4, 6)
    for operator, encode in (("tree", 4 * 2 * 2), ("pq", 4 * (2 * 6 * 4 + 2 * 3))):
        network = replaced(nn.Sequential(nn.Linear(6, 5)), x, operator, C=2, K=4)
        with torch.no_grad():
            assert counted(lambda net=network: net(x)) == encode + 4 * 2 * 5


RELAXED = 2 * 4 * 2 * 4 * 5
"""What all 4 entries of 2 codebooks would change of 5 outputs, for 4 rows."""
AGAIN = 4 * 2 * 2
"""Compares of the codes that tree_train's backward finds again."""


@pytest.mark.parametrize(
    ("estimator", "backward"),
    [("tree", RELAXED + AGAIN), ("flip", RELAXED + AGAIN), ("identity", 2 * 4 * 6 * 5)],
)
def test_training_counts_forward_and_backward(estimator, backward):
    """Of 4 rows, D 6, M 5, C 2, K 4, and the gradient of a free table."""
    x = torch.randn(4, 6, requires_grad=True)
    network = replaced(
        nn.Sequential(nn.Linear(6, 5)), x.detach(), "tree", C=2, K=4, estimator=estimator
    ).train()
    forward, scatter = 4 * 2 * 2 + 4 * 2 * 5, 4 * 2 * 5
    total = counted(lambda: network(x).sum().backward())
    assert total == forward + scatter + backward


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(12, 4), nn.Linear(12, 6)

    def forward(self, x):
        return self.q(x).sum(-1) + self.k(x).sum(-1)


class SharedMaps(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 6, 3)

    def forward(self, x):
        return self.a(x).sum((1, 2, 3)) + self.b(x).sum((1, 2, 3))


@pytest.mark.parametrize(("make", "shape"), [(Shared, (1, 3, 12)), (SharedMaps, (1, 4, 6, 6))])
@pytest.mark.parametrize("operator", ["tree", "pq"])
def test_a_shared_encoder_counts_once(make, shape, operator):
    x = torch.randn(shape)
    network = replaced(make(), x, operator, share=True, K=4)
    with torch.no_grad():
        assert counted(lambda: network(x)) == of_cost(network)
        assert counted(lambda: prepare(network, x)(x)) >= of_cost(network) > 0
    network.train()
    assert counted(lambda: network(x).sum().backward()) > of_cost(network)


def test_integer_products_count_as_the_exact_one():
    x = torch.randn(3, 12)
    exact = 2 * 3 * 12 * 5
    for operator in ("integer", "mxint8", "sign_magnitude"):
        network = replaced(nn.Sequential(nn.Linear(12, 5)), x, operator)
        for _, layer in swap.replaced_layers(network):
            layer.calibrate(x)
        with torch.no_grad():
            assert counted(lambda net=network: net(x)) == exact
            ready = prepare(network)
            assert counted(lambda net=ready: net(x)) == exact
    options = {"width": 2, "activation": {"width": 3}, "contraction": "popcount"}
    network = replaced(nn.Sequential(nn.Linear(12, 5)), x, "lqnet", **options)
    for _, layer in swap.replaced_layers(network):
        layer.calibrate(x)
    with torch.no_grad():
        assert counted(lambda: prepare(network)(x)) == 2 * 3 * exact  # pairs of planes


def test_every_operator_has_a_formula_or_is_named_uncounted():
    schemas = torch._C._jit_get_all_schemas()
    names = {s.name.removeprefix("halut::") for s in schemas if s.name.startswith("halut::")}
    assert names == {*flops.FORMULAS, *flops.UNCOUNTED}
    assert all(getattr(torch.ops.halut, name) in flop_registry for name in flops.FORMULAS)


@pytest.mark.parametrize(
    ("order", "eager"),
    [
        (("import halut.ops", "import torch.utils.flop_counter as f"), False),
        (("import torch.utils.flop_counter as f", "import halut.ops"), True),
    ],
)
def test_the_counter_is_not_imported_for_it_and_knows_the_operators_in_either_order(order, eager):
    code = (
        f"import sys, torch, importlib.util\n{order[0]}\n"
        "print('torch.utils.flop_counter' in sys.modules)\n"
        "assert importlib.util.find_spec('torch.utils.flop_counter')  # to look is not to import\n"
        f"{order[1]}\nprint(torch.ops.halut.tree_layer in f.flop_registry)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [str(eager), "True"], done.stderr
